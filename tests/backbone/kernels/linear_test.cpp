// linear_test.cpp — linear over packed rows: against its reference, gradients, frozen weights,
// packed = one by one.
#include "backbone/kernels/linear/linear.h"

#include <gtest/gtest.h>

#include "backbone/kernels/linear/linear_ref.h"
#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

TEST(LinearTest, MatchesReferenceForOddSizes) {
  for (const auto& [t, i, o] :
       {std::array<int64_t, 3>{7, 5, 3}, {1, 192, 96}, {65, 33, 130}, {0, 4, 6}}) {
    for (const bool per_sample : {false, true}) {
      for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
        const at::Tensor x = randn({t, i}, 1, dtype), w = randn({o, i}, 2, dtype),
                         b = randn({o}, 3, dtype);
        const Segments rows = Segments::from_lengths({t / 2, 0, t - t / 2}, per_sample);
        const Tolerance tolerance = dtype == at::kBFloat16 ? Tolerance{0.2, 0.02} : Tolerance{};
        EXPECT_TRUE(tensor_near(linear(x, w, b, rows), linear_ref(x, w, b), tolerance));
        EXPECT_TRUE(tensor_near(linear(x, w, {}, rows), linear_ref(x, w, {}), tolerance));
      }
    }
  }
}

TEST(LinearTest, GradientsAreThoseOfCentralDifferences) {
  for (const bool per_sample : {false, true})
    EXPECT_TRUE(gradcheck(
        [&](const std::vector<at::Tensor>& in) {
          return linear(in[0], in[1], in[2], Segments::from_lengths({3, 0, 4}, per_sample));
        },
        {randn({7, 5}, 1), randn({3, 5}, 2), randn({3}, 3)}));
  EXPECT_TRUE(gradcheck(
      [&](const std::vector<at::Tensor>& in) { return linear(in[0], in[1], {}, Segments::one(7)); },
      {randn({7, 5}, 1), randn({3, 5}, 2)}));
}

TEST(LinearTest, EmptyRowsGiveZeroGradients) {
  for (const bool per_sample : {false, true}) {
    const at::Tensor x = randn({0, 5}, 1).requires_grad_(true);
    const at::Tensor w = randn({3, 5}, 2).requires_grad_(true),
                     b = randn({3}, 3).requires_grad_(true);
    linear(x, w, b, Segments::from_lengths({0, 0}, per_sample)).sum().backward();
    EXPECT_TRUE(tensor_equal(w.grad(), at::zeros({3, 5})));
    EXPECT_TRUE(tensor_equal(b.grad(), at::zeros({3})));
  }
}

TEST(LinearTest, FrozenWeightHasNoGradientAndKeepsNoInput) {
  at::Tensor x = randn({6, 4}, 1).requires_grad_(true);
  const at::Tensor w = randn({3, 4}, 2);
  const at::Tensor h = x * 2;  // not a leaf: its storage lives only as long as somebody keeps it
  c10::weak_intrusive_ptr<c10::StorageImpl> storage(
      c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(h.storage().unsafeGetStorageImpl()));
  at::Tensor kept = h;
  at::Tensor y = linear(kept, w, {}, Segments::one(6));
  kept = at::Tensor();
  const_cast<at::Tensor&>(h) = at::Tensor();
  EXPECT_TRUE(storage.expired());
  y.sum().backward();
  EXPECT_FALSE(w.grad().defined());
  EXPECT_TRUE(tensor_near(x.grad(), (w.sum(0) * 2).expand({6, 4})));
}

// The promise of Segments::per_sample: the same bits, rows and accumulated gradients, packed or one
// by one, for widths whose slices start at any alignment.
TEST(LinearTest, PackedEqualsOneByOneBitForBit) {
  const std::vector<int64_t> lengths = {22, 1, 17, 0, 64, 5, 130};
  for (const auto& [i, o] : {std::pair<int64_t, int64_t>{192, 512}, {33, 7}, {144, 61}}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const Segments rows = Segments::from_lengths(lengths, /*per_sample=*/true);
      const at::Tensor x = randn({rows.rows(), i}, 1, dtype),
                       dy = randn({rows.rows(), o}, 4, dtype);
      const auto leaf = [&](const at::Tensor& t) { return t.clone().requires_grad_(true); };
      const at::Tensor w = leaf(randn({o, i}, 2, dtype)), b = leaf(randn({o}, 3, dtype)),
                       xp = leaf(x);
      const at::Tensor y = linear(xp, w, b, rows);
      y.backward(dy);
      const at::Tensor w1 = leaf(w.detach()), b1 = leaf(b.detach());
      for (int64_t s = 0; s < rows.count(); ++s) {
        const at::Tensor xs = leaf(x.narrow(0, rows.begin(s), rows.length(s)));
        const at::Tensor ys = linear(xs, w1, b1, Segments::from_lengths({rows.length(s)}, true));
        ys.backward(dy.narrow(0, rows.begin(s), rows.length(s)).contiguous());
        EXPECT_TRUE(same_bits(ys, y.narrow(0, rows.begin(s), rows.length(s))));
        EXPECT_TRUE(same_bits(xs.grad(), xp.grad().narrow(0, rows.begin(s), rows.length(s))));
      }
      EXPECT_TRUE(same_bits(w1.grad(), w.grad()));
      EXPECT_TRUE(same_bits(b1.grad(), b.grad()));
    }
  }
}

TEST(LinearTest, RefusesWrongShapesAndDtypes) {
  EXPECT_TRUE((throws_with<Error>(
      [] {
        linear(randn({2, 3}, 1), randn({4, 5}, 1), {}, Segments::one(2));
      },
      {"linear", "weight_OI", "[4, 5]"})));
  EXPECT_TRUE((throws_with<Error>(
      [] {
        linear(randn({2, 3}, 1), randn({4, 3}, 1, at::kDouble), {}, Segments::one(2));
      },
      {"linear", "weight_OI", "Double"})));
}

}  // namespace
}  // namespace euromodal
