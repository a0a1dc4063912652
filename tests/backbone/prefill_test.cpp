// prefill_test.cpp — a prompt in pieces beside the prompt as a whole; what a pass allocates.
#include "backbone/prefill.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/packed_model.h"
#include "core/error.h"
#include "tests/support/memory_count.h"
#include "tests/support/small_llama.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using namespace testing_support;

constexpr int64_t kWhole = int64_t{1} << 30;

std::vector<int64_t> prefill_ids(int64_t count) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back((i * i + 5 * i + 1) % 50);
  return out;
}

struct Passed {
  at::Tensor hidden_TD, k_LKN, v_LKN;  // all rows; keys and values of the last layer
};

Passed pass_in_pieces(const Llama& llama, const std::vector<int64_t>& ids, int64_t piece,
                      bool int8 = false) {
  KvCache cache = llama.make_cache(int8);
  std::vector<at::Tensor> rows;
  Prefill prefill(llama, ids, cache, piece);
  while (!prefill.done()) {
    EXPECT_EQ(prefill.begin(), cache.length());
    rows.push_back(prefill.step());
    EXPECT_LE(rows.back().size(0), piece);
  }
  const auto [k, v] = cache.layer(llama.config().num_layers - 1);
  return {at::cat(rows), k, v};
}

// f32 products and attention over other numbers of rows add in other orders: 2e-5 of values around
// 1 is what seven hundred sums in f32 may differ by.
TEST(PrefillTest, PiecesGiveWhatTheWholeGives) {
  const TextModel model = small_llama({50, 32, 48, 2, 4, 2, 8, 2048});
  const std::vector<int64_t> ids = prefill_ids(1200);  // three pieces of 512, the last not full
  for (const bool int8 : {false, true}) {
    const Passed whole = pass_in_pieces(*model.llama, ids, kWhole, int8);
    for (const int64_t piece : {1, 7, 512, 1199}) {
      const Passed got = pass_in_pieces(*model.llama, ids, piece, int8);
      // A key that rounds to the code beside its own moves by 1/127 of its row's largest.
      const Tolerance near = int8 ? Tolerance{2e-2, 0} : Tolerance{2e-5, 1e-5};
      EXPECT_TRUE(tensor_near(got.hidden_TD, whole.hidden_TD, near)) << piece;
      EXPECT_TRUE(tensor_near(got.k_LKN, whole.k_LKN, int8 ? Tolerance{5e-2, 0} : near)) << piece;
      EXPECT_TRUE(tensor_near(got.v_LKN, whole.v_LKN, int8 ? Tolerance{5e-2, 0} : near)) << piece;
    }
  }
}

// Packed weights and attention over pages give a row's bits whatever comes with it; pieces above
// kDecodeRows take another attention.
TEST(PrefillTest, SmallPiecesOverPackedWeightsAreEqualInBits) {
  for (const char* form : {"int8", "int4-g32", "bfloat16"}) {
    const TextModel model = small_llama({50, 64, 96, 2, 4, 2, 16, 512});
    for (const NamedTensor& p : model.parameters) p.tensor.set_data(p.tensor.to(at::kBFloat16));
    pack_weights(*model.llama, parse_packed_form(form));
    const std::vector<int64_t> ids = prefill_ids(300);
    const Passed one = pass_in_pieces(*model.llama, ids, 1);
    for (const int64_t piece : {2, 7, 16}) {
      const Passed got = pass_in_pieces(*model.llama, ids, piece);
      EXPECT_TRUE(tensor_equal(got.hidden_TD, one.hidden_TD)) << form << " " << piece;
      EXPECT_TRUE(tensor_equal(got.k_LKN, one.k_LKN)) << form << " " << piece;
    }
    // bf16 rounds after every operator: a few steps of 2^-8.
    EXPECT_TRUE(tensor_near(pass_in_pieces(*model.llama, ids, 512).hidden_TD.to(at::kFloat),
                            one.hidden_TD.to(at::kFloat), {5e-2, 5e-2}))
        << form;
  }
}

TEST(PrefillTest, GoesOnBehindWhatTheCacheHolds) {
  const TextModel model = small_llama({50, 32, 48, 2, 4, 2, 8, 512});
  const Llama& llama = *model.llama;
  const std::vector<int64_t> ids = prefill_ids(40);
  KvCache cache = llama.make_cache();
  const at::Tensor whole_1D = Prefill(llama, ids, cache).last_row();
  cache.truncate(33);
  Prefill rest(llama, ids, cache, 4);
  EXPECT_EQ(rest.begin(), 33);
  EXPECT_TRUE(tensor_near(rest.last_row(), whole_1D, {2e-5, 1e-5}));
  EXPECT_EQ(cache.length(), 40);
  cache.truncate(33);
  const at::Tensor emb_TD = llama.embed(at::tensor(ids, at::kLong), Segments::one(40));
  EXPECT_TRUE(tensor_near(Prefill(llama, emb_TD, cache, 5).last_row(), whole_1D, {2e-5, 1e-5}));
  EXPECT_TRUE(throws_with<Error>([&] { Prefill(llama, ids, cache); }, {"40", "not there yet"}));
  cache.truncate(0);
  EXPECT_TRUE(throws_with<Error>([&] { Prefill(llama, ids, cache, 0); }, {"at least one"}));
}

// What grows with the prompt is what attention reads: one layer's keys and values (K heads, and as
// the H that LibTorch's kernel wants) and a mask row for each of the piece's.
TEST(PrefillTest, APassAllocatesForThePieceAndNotForThePrompt) {
  const int64_t H = 4, K = 2, N = 8, F = 1024;
  const TextModel model = small_llama({50, 64, F, 2, H, K, N, 4096});
  const auto peak = [&](int64_t prompt, int64_t piece) {
    const std::vector<int64_t> ids = prefill_ids(prompt);
    KvCache cache = model.llama->make_cache();
    const MemoryCount count;
    (void)Prefill(*model.llama, ids, cache, piece).last_row();
    return count.peak();
  };
  const int64_t activations = 3 * F * 4;  // gate, up and their product of a row
  EXPECT_GT(peak(2048, kWhole), 2048 * activations);
  const int64_t of_piece = peak(64, 64), more = 2048 - 64;
  const int64_t attention = more * (2 * (K + 2 * H) * N + 64) * 4;
  EXPECT_LT(peak(2048, 64), of_piece + 2 * attention);
  EXPECT_LT(peak(2048, 64), 2048 * activations / 8);
}

}  // namespace
}  // namespace euromodal
