// stop_strings_test.cpp — texts that end an answer: across tokens, inside one, held back in a
// stream.
#include "inference/stop_strings.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

class StopStringsTest : public testing::Test {
 protected:
  StopStrings stops(std::vector<std::string> texts) const { return {tokenizer_, std::move(texts)}; }
  std::shared_ptr<const Tokenizer> tokenizer_ =
      Tokenizer::load(EM_SOURCE_DIR "/configs/nano/tokenizer");
};

TEST_F(StopStringsTest, FoundWithTheTokenThatEndsThem) {
  const std::string text = "balena, tromba é日 balena";
  const auto ids = tokenizer_->encode(text, EncodeMode::kNoSpecial);
  for (const std::string stop : {", tro", "é日", " ", "a, t", "balena", "na"}) {
    const StopStrings one = stops({"zzz", stop});
    size_t first = 0;  // tokens up to the one whose text completes the stop string
    while (++first <= ids.size()) {
      const std::vector<int64_t> head(ids.begin(), ids.begin() + static_cast<int64_t>(first));
      if (tokenizer_->decode(head, true).find(stop) != std::string::npos) break;
    }
    ASSERT_LE(first, ids.size());
    for (size_t n = 1; n <= first; ++n)
      EXPECT_EQ(one.ends(std::span(ids).first(n)), n == first) << stop << " after " << n;
  }
  EXPECT_FALSE(stops({}).ends(ids));
}

TEST_F(StopStringsTest, WhereAndHowMuchIsHeldBack) {
  const StopStrings two = stops({"\n\n", "END"});
  EXPECT_EQ(two.find("one END two\n\n"), 4U);
  EXPECT_EQ(two.find("one"), std::string::npos);
  EXPECT_EQ(two.held("text EN"), 2U);
  EXPECT_EQ(two.held("text\n"), 1U);
  EXPECT_EQ(two.held("text"), 0U);
  EXPECT_EQ(two.held("E"), 1U);
  EXPECT_TRUE(throws_with<UsageError>([&] { (void)stops({"a", ""}); }, {"empty"}));
}

}  // namespace
}  // namespace euromodal
