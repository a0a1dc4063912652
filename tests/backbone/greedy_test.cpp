// greedy_test.cpp — greedy decoding over the cache takes, token by token, what the whole forward
// pass finds most likely; it ends at stop ids, at the wanted number and where positions end.
#include "backbone/greedy.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/small_llama.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

struct GreedyModel {
  TextModel text =
      testing_support::small_llama({23, 8, 12, 2, 4, 2, 2, 16}, {.seed = 10, .scale = 1.0});
  at::Tensor embed(const std::vector<int64_t>& ids) const {
    return text.llama->embed(at::tensor(ids, at::kLong),
                             Segments::one(static_cast<int64_t>(ids.size())));
  }
};

TEST(GreedyTest, TakesWhatTheWholeForwardPassFindsMostLikely) {
  const GreedyModel model;
  const std::vector<int64_t> prompt = {1, 5, 9, 2};
  std::vector<int64_t> seen = prompt, want;
  for (int i = 0; i < 9; ++i) {
    const at::Tensor hidden_TD = model.text.llama->forward(
        model.embed(seen), Segments::one(static_cast<int64_t>(seen.size())));
    want.push_back(model.text.llama->logits(hidden_TD).select(0, -1).argmax().item<int64_t>());
    seen.push_back(want.back());
  }
  EXPECT_EQ(greedy_decode(*model.text.llama, model.embed(prompt), 9, {}), want);
  // The first stop id ends it, and is among the tokens.
  const auto stop = greedy_decode(*model.text.llama, model.embed(prompt), 9, {want[3]});
  const auto first = std::find(want.begin(), want.end(), want[3]) - want.begin();
  EXPECT_EQ(stop, (std::vector<int64_t>(want.begin(), want.begin() + first + 1)));
}

TEST(GreedyTest, PositionsEndIt) {
  const GreedyModel model;
  const at::Tensor full = model.embed(std::vector<int64_t>(16, 3));
  EXPECT_EQ(greedy_decode(*model.text.llama, full, 100, {}).size(), 1U);  // it takes no position
  const at::Tensor some = model.embed(std::vector<int64_t>(10, 3));
  EXPECT_EQ(greedy_decode(*model.text.llama, some, 100, {}).size(), 7U);
  EXPECT_TRUE(greedy_decode(*model.text.llama, some, 0, {}).empty());
}

// What beam search does: sequences over copies of one cache, all in one pass, then one by one. The
// pages that the prompt fills stay one for all.
TEST(GreedyTest, OnePassForSeveralSequencesIsWhatEachGivesAlone) {
  const TextModel text = testing_support::small_llama({50, 32, 48, 2, 4, 2, 8, 512});
  const Llama& llama = *text.llama;
  KvCache prompt = llama.make_cache();
  llama.forward_cached(testing_support::randn({70, 32}, 1, at::kFloat), prompt);
  std::vector<KvCache> together, alone;
  for (int b = 0; b < 5; ++b) {
    together.push_back(prompt.clone());
    alone.push_back(prompt.clone());
  }
  std::vector<KvCache*> caches;
  for (KvCache& cache : together) caches.push_back(&cache);
  for (int64_t step = 0; step < 3; ++step) {
    std::vector<int64_t> ids;
    for (int64_t b = 0; b < 5; ++b) ids.push_back((7 * b + 3 * step) % 50);
    const at::Tensor got_SV = decode_step(llama, ids, caches);
    for (size_t b = 0; b < 5; ++b) {
      const at::Tensor want_1V = decode_rows(llama, {ids[b]}, alone[b]);
      EXPECT_TRUE(testing_support::tensor_near(got_SV.narrow(0, static_cast<int64_t>(b), 1),
                                               want_1V, {2e-5, 1e-5}));
    }
  }
  for (const KvCache& cache : together) {
    EXPECT_EQ(cache.own_bytes(), cache.layout().page_bytes());
    EXPECT_EQ(cache.pages()[0], prompt.pages()[0]);
  }
}

}  // namespace
}  // namespace euromodal
