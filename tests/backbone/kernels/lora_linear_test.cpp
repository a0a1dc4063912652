// lora_linear_test.cpp — the low-rank update: against its reference, gradients, what is kept,
// packed = one by one, and dropout that depends on the sample alone.
#include "backbone/kernels/linear/lora_linear.h"

#include <gtest/gtest.h>

#include "backbone/kernels/linear/lora_linear_ref.h"
#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

LoraUpdate update_of(int64_t in, int64_t out, int64_t rank, at::ScalarType dtype = at::kFloat) {
  return {randn({rank, in}, 5, dtype), randn({out, rank}, 6, dtype), 0.75, 0.0, {}};
}

TEST(LoraLinearTest, MatchesReferenceForOddSizes) {
  for (const auto& [t, i, o, r] :
       {std::array<int64_t, 4>{7, 5, 3, 2}, {1, 192, 96, 8}, {65, 33, 130, 16}, {0, 4, 6, 1}}) {
    for (const bool per_sample : {false, true}) {
      for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
        for (const double dropout : {0.0, 0.3}) {
          const at::Tensor x = randn({t, i}, 1, dtype), w = randn({o, i}, 2, dtype),
                           b = randn({o}, 3, dtype);
          LoraUpdate lora = update_of(i, o, r, dtype);
          lora.dropout = dropout;
          lora.keys = {11, 12, 13};
          const Segments rows = Segments::from_lengths({t / 2, 0, t - t / 2}, per_sample);
          const Tolerance tolerance = dtype == at::kBFloat16 ? Tolerance{1.0, 0.03} : Tolerance{};
          EXPECT_TRUE(tensor_near(lora_linear(x, w, b, lora, rows),
                                  lora_linear_ref(x, w, b, lora, rows), tolerance));
          EXPECT_TRUE(tensor_near(lora_linear(x, w, {}, lora, rows),
                                  lora_linear_ref(x, w, {}, lora, rows), tolerance));
        }
      }
    }
  }
}

TEST(LoraLinearTest, GradientsAreThoseOfCentralDifferences) {
  for (const bool per_sample : {false, true}) {
    for (const double dropout : {0.0, 0.4}) {
      const auto f = [&](const std::vector<at::Tensor>& in) {
        const LoraUpdate lora{in[3], in[4], 0.75, dropout, {21, 22, 23}};
        return lora_linear(in[0], in[1], in[2], lora,
                           Segments::from_lengths({3, 0, 4}, per_sample));
      };
      EXPECT_TRUE(gradcheck(f, {randn({7, 5}, 1), randn({3, 5}, 2), randn({3}, 3), randn({2, 5}, 4),
                                randn({3, 2}, 5)}));
    }
  }
}

// What a run with a frozen model does: only A and B, and the input below it, get gradients.
TEST(LoraLinearTest, GradientsWithAFrozenWeightMatchTheReference) {
  for (const bool input : {false, true}) {
    const auto grads = [&](auto&& op) {
      LoraUpdate lora = update_of(6, 4, 2, at::kDouble);
      lora.a_RI.requires_grad_(true);
      lora.b_OR.requires_grad_(true);
      const at::Tensor x = randn({5, 6}, 1, at::kDouble).requires_grad_(input),
                       w = randn({4, 6}, 2, at::kDouble);
      op(x, w, at::Tensor(), lora, Segments::one(5), at::Tensor()).square().sum().backward();
      EXPECT_FALSE(w.grad().defined());
      return std::vector<at::Tensor>{lora.a_RI.grad(), lora.b_OR.grad(),
                                     input ? x.grad() : at::zeros({1}, at::kDouble)};
    };
    const auto reference = [](const at::Tensor& x, const at::Tensor& w, const at::Tensor& b,
                              const LoraUpdate& lora, const Segments& rows,
                              const at::Tensor&) { return lora_linear_ref(x, w, b, lora, rows); };
    const auto got = grads(lora_linear), want = grads(reference);
    for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(tensor_near(got[i], want[i])) << i;
  }
}

TEST(LoraLinearTest, AFrozenUpdateKeepsNoInput) {
  at::Tensor x = randn({6, 4}, 1).requires_grad_(true);
  at::Tensor h = x * 2;  // its storage lives only as long as somebody keeps it
  c10::weak_intrusive_ptr<c10::StorageImpl> storage(
      c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(h.storage().unsafeGetStorageImpl()));
  LoraUpdate lora = update_of(4, 3, 2);
  const at::Tensor w = randn({3, 4}, 2);
  const at::Tensor y = lora_linear(h, w, {}, lora, Segments::one(6));
  h = at::Tensor();
  EXPECT_TRUE(storage.expired());
  y.sum().backward();
  EXPECT_TRUE(tensor_near(x.grad(),
                          ((w + lora.scale * lora.b_OR.mm(lora.a_RI)).sum(0) * 2).expand({6, 4})));
}

TEST(LoraLinearTest, PackedEqualsOneByOneBitForBit) {
  const std::vector<int64_t> lengths = {22, 1, 17, 0, 64, 5, 130};
  for (const auto& [i, o, r] : {std::array<int64_t, 3>{192, 512, 8}, {33, 7, 3}, {144, 61, 16}}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      for (const double dropout : {0.0, 0.25}) {
        const Segments rows = Segments::from_lengths(lengths, /*per_sample=*/true);
        const at::Tensor x = randn({rows.rows(), i}, 1, dtype),
                         dy = randn({rows.rows(), o}, 4, dtype), w = randn({o, i}, 2, dtype);
        const auto leaf = [&](const at::Tensor& t) { return t.clone().requires_grad_(true); };
        const auto fresh = [&] {
          LoraUpdate lora = update_of(i, o, r, dtype);
          lora.a_RI.requires_grad_(true);
          lora.b_OR.requires_grad_(true);
          lora.dropout = dropout;
          return lora;
        };
        LoraUpdate whole = fresh(), single = fresh();
        for (size_t s = 0; s < lengths.size(); ++s) whole.keys.push_back(100 + s);
        const at::Tensor xp = leaf(x);
        const at::Tensor y = lora_linear(xp, w, {}, whole, rows);
        y.backward(dy);
        for (int64_t s = 0; s < rows.count(); ++s) {
          const at::Tensor xs = leaf(x.narrow(0, rows.begin(s), rows.length(s)));
          single.keys = {whole.keys[static_cast<size_t>(s)]};
          const at::Tensor ys =
              lora_linear(xs, w, {}, single, Segments::from_lengths({rows.length(s)}, true));
          ys.backward(dy.narrow(0, rows.begin(s), rows.length(s)).contiguous());
          EXPECT_TRUE(same_bits(ys, y.narrow(0, rows.begin(s), rows.length(s))));
          EXPECT_TRUE(same_bits(xs.grad(), xp.grad().narrow(0, rows.begin(s), rows.length(s))));
        }
        EXPECT_TRUE(same_bits(single.a_RI.grad(), whole.a_RI.grad()));
        EXPECT_TRUE(same_bits(single.b_OR.grad(), whole.b_OR.grad()));
      }
    }
  }
}

TEST(LoraLinearTest, DropoutDropsItsShareAndDependsOnKeyRowAndColumnAlone) {
  const Segments rows = Segments::from_lengths({40, 3, 57});
  const at::Tensor mask = lora_dropout_mask(0.2, {1, 2, 3}, at::empty({rows.rows(), 101}), rows);
  const double share = mask.eq(0).to(at::kFloat).mean().item<double>();
  EXPECT_NEAR(share, 0.2, 0.015);  // of 10100 draws: 3.8 standard deviations
  EXPECT_TRUE(mask.eq(0).logical_or(mask.eq(1.25F)).all().item<bool>());
  const at::Tensor other =
      lora_dropout_mask(0.2, {3, 1}, at::empty({97, 101}), Segments::from_lengths({57, 40}));
  EXPECT_TRUE(same_bits(other.narrow(0, 0, 57), mask.narrow(0, 43, 57)));
  EXPECT_TRUE(same_bits(other.narrow(0, 57, 40), mask.narrow(0, 0, 40)));
  EXPECT_FALSE(same_bits(mask.narrow(0, 0, 3), mask.narrow(0, 40, 3)));
  // Without keys nothing is dropped.
  LoraUpdate lora = update_of(5, 3, 2);
  const at::Tensor x = randn({4, 5}, 1), w = randn({3, 5}, 2);
  const at::Tensor plain = lora_linear(x, w, {}, lora, Segments::one(4));
  lora.dropout = 0.5;
  EXPECT_TRUE(same_bits(lora_linear(x, w, {}, lora, Segments::one(4)), plain));
}

TEST(LoraLinearTest, RefusesWhatDoesNotFit) {
  const at::Tensor x = randn({4, 5}, 1), w = randn({3, 5}, 2);
  const auto fails = [&](const LoraUpdate& lora, std::initializer_list<std::string_view> words) {
    return throws_with<Error>([&] { lora_linear(x, w, {}, lora, Segments::one(4)); }, words);
  };
  EXPECT_TRUE(fails(update_of(6, 3, 2), {"a_RI", "[2, 6]"}));
  EXPECT_TRUE(fails(update_of(5, 4, 2), {"b_OR", "[4, 2]"}));
  EXPECT_TRUE(fails(update_of(5, 3, 2, at::kDouble), {"a_RI", "Double"}));
  LoraUpdate lora = update_of(5, 3, 2);
  lora.dropout = 1.0;
  EXPECT_TRUE(fails(lora, {"dropout", "1"}));
  lora.dropout = 0.5;
  lora.keys = {1, 2};
  EXPECT_TRUE(fails(lora, {"2 keys for 1 samples"}));
}

}  // namespace
}  // namespace euromodal
