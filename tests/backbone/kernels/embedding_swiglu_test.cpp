// Embedding rows, SwiGLU and GELU.
#include <gtest/gtest.h>

#include "backbone/kernels/embedding/embedding.h"
#include "backbone/kernels/embedding/embedding_ref.h"
#include "backbone/kernels/gelu/gelu.h"
#include "backbone/kernels/swiglu/swiglu.h"
#include "backbone/kernels/swiglu/swiglu_ref.h"
#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

at::Tensor leaf(const at::Tensor& t) { return t.clone().requires_grad_(true); }
at::Tensor ids(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

TEST(EmbeddingTest, MatchesReferenceForwardAndBackward) {
  const at::Tensor ids_T = ids({3, 0, 3, 6, 3, 0});
  for (const bool per_sample : {false, true}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
      const at::Tensor table = leaf(randn({7, 5}, 1, dtype)), ref = leaf(randn({7, 5}, 1, dtype));
      const at::Tensor dy = randn({6, 5}, 2, dtype);
      const at::Tensor y = embedding(table, ids_T, Segments::from_lengths({2, 0, 4}, per_sample));
      EXPECT_TRUE(same_bits(y, embedding_ref(ref, ids_T)));
      y.backward(dy);
      embedding_ref(ref, ids_T).backward(dy);
      EXPECT_TRUE(tensor_near(table.grad(), ref.grad(),
                              dtype == at::kBFloat16 ? Tolerance{0.05, 0.02} : Tolerance{}));
    }
  }
}

TEST(EmbeddingTest, PackedEqualsOneByOneBitForBit) {
  const std::vector<int64_t> lengths = {9, 1, 0, 14};
  const Segments rows = Segments::from_lengths(lengths, /*per_sample=*/true);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor ids_T = at::arange(0, rows.rows(), at::kLong).pow(2).remainder(5);
    const at::Tensor dy = randn({rows.rows(), 33}, 2, dtype);
    const at::Tensor table = leaf(randn({5, 33}, 1, dtype)), one = leaf(table.detach());
    embedding(table, ids_T, rows).backward(dy);
    for (int64_t s = 0; s < rows.count(); ++s)
      embedding(one, ids_T.narrow(0, rows.begin(s), rows.length(s)),
                Segments::from_lengths({rows.length(s)}, true))
          .backward(dy.narrow(0, rows.begin(s), rows.length(s)).contiguous());
    EXPECT_TRUE(same_bits(one.grad(), table.grad()));
  }
}

TEST(EmbeddingTest, EmptyRowsGiveAZeroGradient) {
  const at::Tensor table = leaf(randn({4, 3}, 1));
  const at::Tensor y = embedding(table, ids({}), Segments::one(0));
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{0, 3}));
  y.sum().backward();
  EXPECT_TRUE(tensor_equal(table.grad(), at::zeros({4, 3})));
}

TEST(SwigluTest, MatchesReferenceForwardAndBackward) {
  for (const auto& [t, f] : {std::pair<int64_t, int64_t>{1, 1}, {13, 7}, {70, 512}, {0, 4}}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
      const at::Tensor gate = randn({t, f}, 1, dtype) * 4, up = randn({t, f}, 2, dtype);
      const at::Tensor ga = leaf(gate), ua = leaf(up), gb = leaf(gate), ub = leaf(up);
      const at::Tensor y = swiglu(ga, ua), want = swiglu_ref(gb, ub), dy = randn({t, f}, 3, dtype);
      EXPECT_TRUE(tensor_near(y, want));
      y.backward(dy);
      want.backward(dy);
      const Tolerance tolerance =
          dtype == at::kBFloat16 || dtype == at::kHalf ? Tolerance{0.03, 0.03} : Tolerance{};
      EXPECT_TRUE(tensor_near(ga.grad(), gb.grad(), tolerance));
      EXPECT_TRUE(tensor_near(ua.grad(), ub.grad(), tolerance));
    }
  }
}

TEST(SwigluTest, AFusedRowIsItsTwoHalves) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const at::Tensor gate_up = leaf(randn({9, 26}, 1, dtype)), dy = randn({9, 13}, 2, dtype);
    const at::Tensor gate = leaf(gate_up.detach().narrow(1, 0, 13)),
                     up = leaf(gate_up.detach().narrow(1, 13, 13));
    const at::Tensor y = swiglu(gate_up), want = swiglu(gate, up);
    EXPECT_TRUE(same_bits(y, want));
    y.backward(dy);
    want.backward(dy);
    EXPECT_TRUE(same_bits(gate_up.grad(), at::cat({gate.grad(), up.grad()}, 1)));
  }
  EXPECT_THROW(swiglu(at::ones({2, 5})), Error);
  EXPECT_THROW(swiglu(at::ones({4})), Error);
}

// Against the formulas, written out here in double.
TEST(GeluTest, ThreeForms) {
  const at::Tensor x = randn({7, 33}, 1, at::kDouble) * 3;
  const at::Tensor cube = x + 0.044715 * x.pow(3);
  EXPECT_TRUE(tensor_near(gelu(x, GeluKind::kGelu), x * (1 + (x / std::sqrt(2.0)).erf()) / 2));
  EXPECT_TRUE(tensor_near(gelu(x, GeluKind::kGeluTanh),
                          x * (1 + (cube * std::sqrt(2.0 / M_PI)).tanh()) / 2));
  EXPECT_TRUE(tensor_near(gelu(x, GeluKind::kQuickGelu), x / (1 + (-1.702 * x).exp())));
  for (const GeluKind kind : {GeluKind::kGelu, GeluKind::kGeluTanh, GeluKind::kQuickGelu})
    EXPECT_TRUE(gradcheck([&](const std::vector<at::Tensor>& in) { return gelu(in[0], kind); },
                          {randn({3, 5}, 2, at::kDouble)}));
}

TEST(SwigluTest, SurvivesExtremeGates) {
  const at::Tensor gate =
      at::tensor(std::vector<float>{-1e4f, -90.0f, -87.5f, 0.0f, 88.0f, 1e4f}).view({2, 3});
  const at::Tensor y = swiglu(gate, at::ones({2, 3}));
  EXPECT_TRUE(tensor_near(y, swiglu_ref(gate, at::ones({2, 3})), {1e-6, 1e-6}));
}

TEST(SwigluTest, GradientsAreThoseOfCentralDifferences) {
  EXPECT_TRUE(gradcheck([](const std::vector<at::Tensor>& in) { return swiglu(in[0], in[1]); },
                        {randn({3, 5}, 1), randn({3, 5}, 2)}));
}

TEST(SwigluTest, BitsOfARowDoNotDependOnTheOthers) {
  const at::Tensor gate = randn({11, 37}, 1), up = randn({11, 37}, 2), all = swiglu(gate, up);
  for (int64_t t = 0; t < 11; ++t)
    EXPECT_TRUE(same_bits(all.narrow(0, t, 1), swiglu(gate.narrow(0, t, 1), up.narrow(0, t, 1))));
}

TEST(SwigluTest, RefusesOtherShapes) {
  EXPECT_TRUE((throws_with<Error>(
      [] {
        swiglu(randn({2, 3}, 1), randn({2, 4}, 1));
      },
      {"up_TF", "[2, 4]"})));
}

}  // namespace
}  // namespace euromodal
