// kept_sequences_test.cpp — common beginnings, eviction, keys of media; tokens and logits of reused
// beginnings beside those of fresh ones, alone and in a batch.
#include "inference/kept_sequences.h"

#include <map>
#include <memory>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "inference/batch_engine.h"
#include "inference/generator.h"
#include "tests/support/small_llama.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using namespace testing_support;

std::vector<int64_t> kept_ids(int64_t count, int64_t first) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back((first + i * i + 5 * i) % 50);
  return out;
}

KvCache filled(int64_t positions, uint64_t seed) {
  KvCache out(1, 1, 4, at::kFloat);
  const at::Tensor k = randn({positions, 1, 4}, seed);
  out.append(0, k, -k);
  return out;
}

TEST(KeptSequencesTest, TakesTheLongestCommonBeginning) {
  const KvLayout layout = kv_layout(1, 1, 4, at::kFloat, false);
  KeptSequences kept(layout, {.least = 4});
  EXPECT_FALSE(kept.take(std::vector<int64_t>{1, 2, 3, 4}).has_value());
  const KvCache a = filled(7, 1), b = filled(6, 2);
  kept.keep({1, 2, 3, 4, 5, 6}, a.clone());  // the seventh position has no key
  kept.keep({1, 2, 3, 4, 9, 9}, b.clone());
  EXPECT_EQ(kept.common(std::vector<int64_t>{1, 2, 3, 4, 9, 7, 7}), 5);
  auto got = kept.take(std::vector<int64_t>{1, 2, 3, 4, 9, 7, 7});
  ASSERT_TRUE(got.has_value());
  EXPECT_TRUE(tensor_equal(got->layer(0).first, b.layer(0).first.narrow(0, 0, 5)));
  got = kept.take(std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7});
  ASSERT_TRUE(got.has_value());
  EXPECT_TRUE(tensor_equal(got->layer(0).first, a.layer(0).first.narrow(0, 0, 6)));
  EXPECT_EQ(kept.common(std::vector<int64_t>{1, 2, 3, 7}), 0);  // three are too few
  EXPECT_EQ(kept.common(std::vector<int64_t>{2, 1, 2, 3, 4, 5}), 0);
  // What goes on from a sequence takes its place; what it begins with is there already.
  kept.keep({1, 2, 3, 4, 9, 9, 8}, filled(7, 3));
  kept.keep({1, 2, 3, 4, 9}, filled(5, 4));
  EXPECT_EQ(kept.count(), 2);
  EXPECT_TRUE(throws_with<Error>(
      [&] {
        kept.keep({1, 2, 3, 4, 5, 6, 7}, filled(6, 5));
      },
      {"7 keys", "6 positions"}));
  EXPECT_TRUE(throws_with<Error>(
      [&] {
        kept.keep({1, 2}, KvCache(1, 1, 4, at::kFloat, /*int8=*/true));
      },
      {"another form"}));
}

TEST(KeptSequencesTest, BytesAndCountAreBounded) {
  const KvLayout layout = kv_layout(1, 1, 4, at::kFloat, false);
  const int64_t page = layout.page_bytes();
  KeptSequences kept(layout, {.bytes = 4 * page, .count = 3, .least = 1});
  const KvCache trunk = filled(130, 1);
  std::vector<int64_t> keys = kept_ids(130, 0);
  for (int64_t i = 0; i < 3; ++i) {
    keys.back() = 100 + i;
    kept.keep(keys, trunk.clone());
  }
  EXPECT_EQ(kept.count(), 3);
  EXPECT_EQ(kept.bytes(), 3 * page);  // one sequence's: all pages are shared
  kept.keep({7, 7, 7}, filled(3, 2));
  EXPECT_EQ(kept.count(), 3);  // the first is gone
  keys.back() = 100;
  EXPECT_EQ(kept.common(keys), 129);
  keys.back() = 102;
  EXPECT_TRUE(kept.take(keys).has_value());   // used: not the next to go
  kept.keep(kept_ids(90, 3), filled(90, 3));  // two pages more than fit beside all of these
  EXPECT_LE(kept.bytes(), 4 * page);
  EXPECT_EQ(kept.common(kept_ids(90, 3)), 90);
  EXPECT_EQ(kept.common(std::vector<int64_t>{7, 7, 7}), 0);
  const std::vector<int64_t> many = kept_ids(1000, 4);
  kept.keep(many, filled(1000, 4));  // as far as four pages go
  EXPECT_EQ(kept.common(many), 4 * kPagePositions);
  EXPECT_EQ(kept.count(), 1);
  KeptSequences none(layout, {.bytes = 0});
  none.keep(many, filled(1000, 4));
  EXPECT_EQ(none.count(), 0);
}

TEST(KeptSequencesTest, KeysOfMediaAreTheirNumbersAndRows) {
  TokenPlan plan;
  plan.ids = {5, 6, 40, 40, 7, 41, 41, 8};
  plan.spans = {{Modality::kImage, 0, 2, 2}, {Modality::kAudio, 0, 5, 2}};
  EXPECT_EQ(prompt_keys(plan), (std::vector<int64_t>{5, 6}));
  const auto first = prompt_keys(plan, {{{3}, {}, {}}});
  ASSERT_EQ(first.size(), 5U);
  EXPECT_EQ(first[4], 7);
  EXPECT_LT(first[2], 0);
  EXPECT_NE(first[2], first[3]);
  EXPECT_EQ(first, prompt_keys(plan, {{{3}, {}, {}}}));
  EXPECT_EQ(common_beginning(first, prompt_keys(plan, {{{4}, {}, {}}})), 2);
  EXPECT_EQ(prompt_keys(plan, {{{3}, {9}, {}}}).size(), 8U);
  plan.spans.clear();
  EXPECT_EQ(prompt_keys(plan), plan.ids);
}

class PrefixReuseTest : public testing::TestWithParam<bool> {
 protected:
  PrefixReuseTest() : model_(small_llama({50, 32, 48, 2, 4, 2, 8, 512})) {
    options_.max_new_tokens = 12;
    options_.int8_cache = GetParam();
  }
  const Llama& llama() const { return *model_.llama; }
  std::shared_ptr<KeptSequences> new_kept() const {
    return std::make_shared<KeptSequences>(llama().cache_layout(GetParam()));
  }
  TextModel model_;
  GenerateOptions options_;
};

/// Log-probabilities are those of fresh prefills to rounding; int8 codes may round to a neighbour.
void expect_same(const Generated& got, const Generated& want, bool int8) {
  EXPECT_EQ(got.tokens, want.tokens);
  ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
  for (size_t i = 0; i < got.logprobs.size(); ++i)
    EXPECT_NEAR(got.logprobs[i].logprob, want.logprobs[i].logprob, int8 ? 5e-2 : 2e-5);
}

TEST_P(PrefixReuseTest, TokensAreThoseOfFreshPrompts) {
  options_.logprobs = 0;
  GenerateOptions reusing = options_;
  reusing.kept = new_kept();
  const std::vector<int64_t> trunk = kept_ids(90, 0);
  const Generated first = generate(llama(), {trunk}, reusing);
  EXPECT_EQ(first.timings.reused_tokens, 0);
  expect_same(first, generate(llama(), {trunk}, options_), GetParam());
  // A second turn: the prompt, its answer (whose last token has no position yet), something new.
  std::vector<int64_t> turn = trunk;
  turn.insert(turn.end(), first.tokens.begin(), first.tokens.end());
  const std::vector<int64_t> more = kept_ids(20, 9);
  turn.insert(turn.end(), more.begin(), more.end());
  const Generated second = generate(llama(), {turn}, reusing);
  EXPECT_EQ(second.timings.reused_tokens, 90 + 11);
  EXPECT_EQ(second.timings.prompt_tokens, 90 + 12 + 20);
  expect_same(second, generate(llama(), {turn}, options_), GetParam());
  // The same prompt once more: all but its last row, which says what comes next.
  EXPECT_EQ(generate(llama(), {turn}, reusing).timings.reused_tokens, 121);
  // Another way from the middle of a page, with lookup and with beams.
  for (int way = 0; way < 3; ++way) {
    std::vector<int64_t> branch(trunk.begin(), trunk.begin() + 70);
    branch.push_back(3 + way);
    GenerateOptions plain = options_, kept = reusing;
    plain.lookup = kept.lookup = way == 1 ? 6 : 0;
    plain.beams = kept.beams = way == 2 ? 3 : 1;
    const Generated got = generate(llama(), {branch}, kept);
    EXPECT_EQ(got.timings.reused_tokens, 70);
    expect_same(got, generate(llama(), {branch}, plain), GetParam());
    branch.insert(branch.end(), got.tokens.begin(), got.tokens.end());
    branch.push_back(1);
    EXPECT_GE(generate(llama(), {branch}, kept).timings.reused_tokens,
              way == 2 ? 71 : 71 + static_cast<int64_t>(got.tokens.size()) - 1);
  }
  // Logits of the whole prompt need every row of it.
  const Generated whole = generate(llama(), {trunk}, reusing, /*want_logits=*/true);
  EXPECT_EQ(whole.timings.reused_tokens, 0);
  EXPECT_EQ(whole.prompt_logits_TV.size(0), 90);
}

TEST_P(PrefixReuseTest, RowsThatAreGivenAreReusedByTheirKeysAlone) {
  options_.kept = new_kept();
  const std::vector<int64_t> ids = kept_ids(60, 0);
  const auto rows = Segments::one(60);
  const at::Tensor emb_TD = llama().embed(at::tensor(ids, at::kLong), rows);
  EXPECT_EQ(generate(llama(), {ids, emb_TD}, options_).timings.reused_tokens, 0);
  EXPECT_EQ(generate(llama(), {ids, emb_TD}, options_).timings.reused_tokens, 0);  // no keys
  const std::vector<int64_t> keys(ids.begin(), ids.begin() + 30);
  const Generated fresh = generate(llama(), {ids, emb_TD, keys}, options_);
  const Generated again = generate(llama(), {ids, emb_TD, keys}, options_);
  EXPECT_EQ(fresh.timings.reused_tokens, 0);
  EXPECT_EQ(again.timings.reused_tokens, 30);
  EXPECT_EQ(again.tokens, fresh.tokens);
}

TEST_P(PrefixReuseTest, PromptsOfABatchReadTheirCommonBeginningOnce) {
  const std::vector<int64_t> head = kept_ids(100, 2);
  std::vector<std::vector<int64_t>> prompts;
  for (int64_t i = 0; i < 9; ++i) {
    prompts.push_back(head);
    const std::vector<int64_t> own = kept_ids(5 + i, 20 + i);
    prompts.back().insert(prompts.back().end(), own.begin(), own.end());
  }
  prompts.push_back(kept_ids(40, 33));  // begins otherwise
  GenerateOptions reusing = options_;
  reusing.kept = new_kept();
  BatchEngine engine(llama(), {.sequences = 4, .pass_rows = 48});
  for (size_t i = 0; i < prompts.size(); ++i)
    engine.add({static_cast<int64_t>(i), prompts[i], reusing});
  std::map<int64_t, Generated> got;
  while (engine.busy())
    engine.step([&](int64_t number, Generated one) { got.emplace(number, std::move(one)); });
  ASSERT_EQ(got.size(), prompts.size());
  int64_t reused = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const Generated& one = got[static_cast<int64_t>(i)];
    EXPECT_EQ(one.tokens, generate(llama(), {prompts[i]}, options_).tokens) << i;
    reused += one.timings.reused_tokens;
  }
  EXPECT_EQ(got[0].timings.reused_tokens, 0);
  EXPECT_EQ(got[9].timings.reused_tokens, 0);
  EXPECT_GE(reused, 8 * 100);  // also by those that came while the first was still being read
}

INSTANTIATE_TEST_SUITE_P(Caches, PrefixReuseTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "Int8" : "F32"; });

}  // namespace
}  // namespace euromodal
