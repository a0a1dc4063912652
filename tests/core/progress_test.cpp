// progress_test.cpp — off a terminal: plain lines, few of them, nothing when disabled.
#include "core/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace euromodal {
namespace {

TEST(ProgressTest, PlainLinesOffATerminal) {
  testing::internal::CaptureStderr();
  {
    Progress p("train", 4, "steps");
    for (int i = 1; i <= 4; ++i) p.update(i, "loss=1.5");
    p.finish();
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, testing::HasSubstr("train 4/4 steps (100 %)"));
  EXPECT_THAT(text, testing::HasSubstr("loss=1.5"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);  // ten seconds apart at most
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("\r")));
}

TEST(ProgressTest, SilentWhenDisabled) {
  testing::internal::CaptureStderr();
  {
    Progress p("train", 4, "steps", /*enabled=*/false);
    p.update(4);
    p.finish();
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace euromodal
