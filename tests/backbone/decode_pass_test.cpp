// decode_pass_test.cpp — one parallel region for all blocks gives the bits of the blocks one by
// one: hidden rows and caches, every form of weights, dtype and cache, several sequences, any
// number of threads.
#include "backbone/decode_pass.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "backbone/kernels/decode_attention/decode_attention.h"
#include "backbone/llama.h"
#include "backbone/packed_model.h"
#include "tests/support/gradcheck.h"
#include "tests/support/packed_forms.h"
#include "tests/support/small_llama.h"

namespace euromodal {
namespace {

using namespace testing_support;

/// Somebody who wants to be told of every block: the pass goes through them one by one.
class Watched final : public BlockHooks {
 public:
  void before_forward(int64_t) override { ++seen; }
  void after_forward(int64_t) override {}
  void before_backward(int64_t) override {}
  void after_backward(int64_t) override {}
  int64_t seen = 0;
};

TextModel small_model(at::ScalarType dtype, bool biases) {
  LlamaConfig config = llama_config(
      {.V = 60, .D = 72, .F = 150, .layers = 3, .H = 6, .K = 2, .N = 24, .positions = 256});
  config.attention_bias = biases;
  config.mlp_bias = biases;
  return drawn_model(config, dtype);
}

struct Decoded {
  std::vector<at::Tensor> hidden;  // of each step
  std::vector<KvCache> caches;
};

/// Prompts of some lengths, then a few passes over all of them.
Decoded decode(const Llama& llama, bool int8_cache) {
  const c10::NoGradGuard no_grad;
  Decoded out;
  std::vector<KvCache*> all;
  for (const int64_t length : {70, 1, 20}) {
    out.caches.push_back(llama.make_cache(int8_cache));
    const Segments rows = Segments::one(length);
    out.hidden.push_back(llama.forward_cached(llama.embed(at::arange(length).remainder(60), rows),
                                              out.caches.back()));
  }
  for (KvCache& cache : out.caches) all.push_back(&cache);
  for (const std::vector<int64_t>& counts :
       {std::vector<int64_t>{1, 1, 1}, {1, 3, kDecodeRows}, {0, 1, 1}}) {
    const Segments rows = Segments::from_lengths(counts);
    out.hidden.push_back(llama.forward_cached(
        llama.embed(at::arange(rows.rows()).add(7).remainder(60), rows), rows, all));
  }
  return out;
}

void expect_same(const Decoded& got, const Decoded& want) {
  for (size_t i = 0; i < want.hidden.size(); ++i)
    EXPECT_TRUE(at::equal(got.hidden[i], want.hidden[i])) << "pass " << i;
  for (size_t s = 0; s < want.caches.size(); ++s) {
    ASSERT_EQ(got.caches[s].length(), want.caches[s].length());
    for (int64_t layer = 0; layer < 3; ++layer) {
      const auto [k, v] = got.caches[s].layer(layer);
      const auto [want_k, want_v] = want.caches[s].layer(layer);
      EXPECT_TRUE(at::equal(k, want_k) && at::equal(v, want_v)) << s << ", layer " << layer;
    }
  }
}

void expect_bits_of_blocks(at::ScalarType dtype, const PackedForm& form) {
  for (const bool biases : {false, true}) {
    const TextModel model = small_model(dtype, biases);
    pack_weights(*model.llama, form);
    for (const bool int8_cache : {false, true}) {
      const Decoded got = decode(*model.llama, int8_cache);
      const auto watched = std::make_shared<Watched>();
      model.llama->set_block_hooks(watched);
      const Decoded want = decode(*model.llama, int8_cache);
      EXPECT_EQ(watched->seen, 6 * 3);
      model.llama->set_block_hooks(nullptr);
      expect_same(got, want);
    }
  }
}

TEST(DecodePassTest, BitsOfTheBlocksOneByOne) {
  for (const PackedForm& form : integer_forms()) {
    SCOPED_TRACE(packed_form_name(form));
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf})
      expect_bits_of_blocks(dtype, form);
  }
  expect_bits_of_blocks(at::kBFloat16, {});
}

TEST(DecodePassTest, AnyNumberOfThreads) {
  const TextModel model = small_model(at::kBFloat16, false);
  pack_weights(*model.llama, {WeightForm::kInt4, 32});
  const int before = at::get_num_threads();
  const Decoded want = decode(*model.llama, false);
  for (const int threads : {1, 3, 7}) {
    at::set_num_threads(threads);
    expect_same(decode(*model.llama, false), want);
  }
  at::set_num_threads(before);
}

TEST(DecodePassTest, ACopySharesPagesUntilOneOfThemGoesOn) {
  const c10::NoGradGuard no_grad;
  const TextModel model = small_model(at::kBFloat16, false);
  const Llama& llama = *model.llama;
  pack_weights(llama, {WeightForm::kInt8, 32});
  const auto next = [&](int64_t id, KvCache& cache) {
    return llama.forward_cached(llama.embed(at::full({1}, id), Segments::one(1)), cache);
  };
  KvCache one = llama.make_cache();
  for (int64_t id = 0; id < 5; ++id) next(id, one);
  KvCache other = one.clone(), again = one.clone();
  const at::Tensor first_D = next(9, other);
  next(8, one);
  EXPECT_TRUE(at::equal(next(9, again), first_D));
  one.truncate(5);
  EXPECT_TRUE(at::equal(next(9, one), first_D));
}

TEST(DecodePassTest, WhatDoesNotFitGoesTheOtherWay) {
  const c10::NoGradGuard no_grad;
  const TextModel model = small_model(at::kBFloat16, false);
  const Llama& llama = *model.llama;
  const auto fits = [&](const Segments& rows) {
    KvCache cache = llama.make_cache();
    KvCache* const caches[] = {&cache};
    const at::Tensor x_TD = llama.embed(at::zeros({rows.rows()}, at::kLong), rows);
    return decode_pass_fits({llama.blocks(), llama.config(), llama.rope_for(64),
                             at::zeros({rows.rows()}, at::kLong), rows},
                            caches, x_TD);
  };
  EXPECT_FALSE(fits(Segments::one(1)));  // not packed
  pack_weights(llama, {WeightForm::kInt8, 32});
  EXPECT_TRUE(fits(Segments::one(kDecodeRows)));
  EXPECT_FALSE(fits(Segments::one(kDecodeRows + 1)));
  EXPECT_FALSE(fits(Segments::one(0)));
}

}  // namespace
}  // namespace euromodal
