// time_split_test.cpp — scopes are charged with their own time only, and cost nothing without a
// collector.
#include "core/time_split.h"

#include <thread>

#include <gtest/gtest.h>

namespace euromodal {
namespace {

void time_pass(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

TEST(TimeSplitTest, ScopesInsideOthersAreChargedOnce) {
  TimeSplit split;
  const auto start = std::chrono::steady_clock::now();
  {
    const TimeScope outer("outer");
    time_pass(20);
    {
      const TimeScope inner("inner");
      time_pass(40);
    }
    time_pass(1);
  }
  const std::chrono::duration<double> total = std::chrono::steady_clock::now() - start;
  const auto parts = split.take();
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[0].first, "outer");
  EXPECT_EQ(parts[1].first, "inner");
  EXPECT_GE(parts[0].second, 0.021);  // sleeps are never shorter
  EXPECT_GE(parts[1].second, 0.040);
  EXPECT_LE(parts[0].second + parts[1].second, total.count());
  for (const auto& [name, seconds] : split.take()) EXPECT_EQ(seconds, 0.0) << name;
}

TEST(TimeSplitTest, TheSameNameAddsUp) {
  TimeSplit split;
  for (int i = 0; i < 3; ++i) {
    const TimeScope scope("part");
    time_pass(2);
  }
  const auto parts = split.take();
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_GE(parts[0].second, 0.006);
}

TEST(TimeSplitTest, WithoutACollectorNothingHappens) {
  const TimeScope alone("alone");
  TimeSplit split;  // began inside: the scope around it is not its own
  {
    std::thread([] { const TimeScope other_thread("other"); }).join();
  }
  EXPECT_TRUE(split.take().empty());
}

TEST(TimeSplitTest, AnInnerCollectorGivesBack) {
  TimeSplit outer;
  {
    TimeSplit inner;
    const TimeScope scope("inner");
  }
  { const TimeScope scope("outer"); }
  const auto parts = outer.take();
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_EQ(parts[0].first, "outer");
}

}  // namespace
}  // namespace euromodal
