// RMS norm and layer norm.
#include <gtest/gtest.h>

#include "backbone/kernels/layer_norm/layer_norm.h"
#include "backbone/kernels/layer_norm/layer_norm_ref.h"
#include "backbone/kernels/rms_norm/rms_norm.h"
#include "backbone/kernels/rms_norm/rms_norm_ref.h"
#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

constexpr double kEps = 1e-5;

at::Tensor leaf(const at::Tensor& t) { return t.clone().requires_grad_(true); }

// One call for both: `centre` is layer norm.
at::Tensor norm(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, bool centre,
                const Segments& rows) {
  return centre ? layer_norm(x, w, b, kEps, rows) : rms_norm(x, w, kEps, rows);
}
at::Tensor norm_ref(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, bool centre) {
  return centre ? layer_norm_ref(x, w, b, kEps) : rms_norm_ref(x, w, kEps);
}

TEST(NormTest, MatchesReferenceForOddWidths) {
  for (const bool centre : {false, true}) {
    for (const auto& [t, d] :
         {std::pair<int64_t, int64_t>{1, 1}, {5, 7}, {70, 192}, {3, 1153}, {0, 16}}) {
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
        SCOPED_TRACE(fmt::format("centre {} T{} D{} {}", centre, t, d, c10::toString(dtype)));
        const at::Tensor x = randn({t, d}, 1, dtype) + 1.0, w0 = randn({d}, 2, dtype),
                         b0 = randn({d}, 3, dtype);
        const at::Tensor dy = randn({t, d}, 4, dtype);
        const at::Tensor xa = leaf(x), wa = leaf(w0), ba = leaf(b0), xb = leaf(x), wb = leaf(w0),
                         bb = leaf(b0);
        const at::Tensor y = norm(xa, wa, ba, centre, Segments::one(t)),
                         want = norm_ref(xb, wb, bb, centre);
        EXPECT_TRUE(tensor_near(y, want));
        y.backward(dy);
        want.backward(dy);
        const Tolerance grads = dtype == at::kBFloat16 ? Tolerance{0.15, 0.03}
                                : dtype == at::kHalf   ? Tolerance{0.02, 0.01}
                                                       : Tolerance{};
        EXPECT_TRUE(tensor_near(xa.grad(), xb.grad(), grads));
        EXPECT_TRUE(tensor_near(wa.grad(), wb.grad(), grads));
        if (centre) {
          EXPECT_TRUE(tensor_near(ba.grad(), bb.grad(), grads));
        }
      }
    }
  }
}

TEST(NormTest, GradientsAreThoseOfCentralDifferences) {
  for (const bool centre : {false, true})
    for (const bool per_sample : {false, true})
      EXPECT_TRUE(gradcheck(
          [&](const std::vector<at::Tensor>& in) {
            return norm(in[0], in[1], in[2], centre, Segments::from_lengths({2, 0, 3}, per_sample));
          },
          {randn({5, 7}, 1), randn({7}, 2), randn({7}, 3)}));
}

TEST(NormTest, PackedEqualsOneByOneBitForBit) {
  const Segments rows = Segments::from_lengths({22, 1, 0, 70}, /*per_sample=*/true);
  for (const bool centre : {false, true}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const at::Tensor x = randn({rows.rows(), 145}, 1, dtype),
                       dy = randn({rows.rows(), 145}, 4, dtype);
      const at::Tensor w = leaf(randn({145}, 2, dtype)), b = leaf(randn({145}, 3, dtype)),
                       xp = leaf(x);
      const at::Tensor w1 = leaf(w.detach()), b1 = leaf(b.detach());
      const at::Tensor y = norm(xp, w, b, centre, rows);
      y.backward(dy);
      for (int64_t s = 0; s < rows.count(); ++s) {
        const at::Tensor xs = leaf(x.narrow(0, rows.begin(s), rows.length(s)));
        const at::Tensor ys =
            norm(xs, w1, b1, centre, Segments::from_lengths({rows.length(s)}, true));
        ys.backward(dy.narrow(0, rows.begin(s), rows.length(s)).contiguous());
        EXPECT_TRUE(same_bits(ys, y.narrow(0, rows.begin(s), rows.length(s))));
        EXPECT_TRUE(same_bits(xs.grad(), xp.grad().narrow(0, rows.begin(s), rows.length(s))));
      }
      EXPECT_TRUE(tensor_equal(w1.grad(), w.grad()));
      if (centre) {
        EXPECT_TRUE(tensor_equal(b1.grad(), b.grad()));
      }
    }
  }
}

TEST(NormTest, FrozenWeightHasNoGradient) {
  const at::Tensor x = leaf(randn({3, 8}, 1)), w = randn({8}, 2);
  rms_norm(x, w, kEps, Segments::one(3)).sum().backward();
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(w.grad().defined());
}

TEST(NormTest, RefusesAWeightOfAnotherWidth) {
  EXPECT_TRUE((throws_with<Error>(
      [] {
        rms_norm(randn({2, 4}, 1), randn({5}, 1), kEps, Segments::one(2));
      },
      {"rms_norm", "weight_D", "[5]", "[4]"})));
}

}  // namespace
}  // namespace euromodal
