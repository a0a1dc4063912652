// cross_entropy_test.cpp — fused linear + cross-entropy in chunks: against its reference,
// gradients, frozen head.
#include "backbone/kernels/cross_entropy/cross_entropy.h"

#include <gtest/gtest.h>

#include "backbone/kernels/cross_entropy/cross_entropy_ref.h"
#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

at::Tensor leaf(const at::Tensor& t) { return t.clone().requires_grad_(true); }

CrossEntropyArgs make_args(int64_t rows, int64_t width, int64_t vocab, at::ScalarType dtype) {
  CrossEntropyArgs args;
  args.hidden_RD = leaf(randn({rows, width}, 1, dtype));
  args.weight_VD = leaf(randn({vocab, width}, 2, dtype));
  args.labels_R = at::arange(0, rows, at::kLong).mul(7).remainder(vocab);
  return args;
}

TEST(CrossEntropyTest, MatchesReferenceInChunksOfAnySize) {
  for (const int64_t chunk : {1, 4, 1024}) {
    for (const double smoothing : {0.0, 0.1}) {
      for (const bool weighted : {false, true}) {
        CrossEntropyArgs got = make_args(13, 9, 37, at::kFloat),
                         want = make_args(13, 9, 37, at::kFloat);
        at::Tensor rows;
        got.chunk_rows = chunk;
        got.row_loss_R = &rows;
        got.label_smoothing = want.label_smoothing = smoothing;
        got.z_loss = want.z_loss = smoothing * 0.3;
        if (weighted) got.row_weight_R = want.row_weight_R = randn({13}, 5).abs();
        const at::Tensor loss = linear_cross_entropy(got, Segments::one(13));
        const at::Tensor ref = linear_cross_entropy_ref(want);
        EXPECT_TRUE(tensor_near(loss, ref));
        EXPECT_FALSE(rows.requires_grad());
        EXPECT_TRUE(tensor_near(rows.sum(), ref));
        (loss * 3).backward();
        (ref * 3).backward();
        EXPECT_TRUE(tensor_near(got.hidden_RD.grad(), want.hidden_RD.grad()));
        EXPECT_TRUE(tensor_near(got.weight_VD.grad(), want.weight_VD.grad()));
      }
    }
  }
}

TEST(CrossEntropyTest, AgreesWithAtensOwnLoss) {
  const CrossEntropyArgs args = make_args(6, 5, 11, at::kFloat);
  CrossEntropyArgs smooth = args;
  smooth.label_smoothing = 0.2;
  const at::Tensor want = at::cross_entropy_loss(at::matmul(args.hidden_RD, args.weight_VD.t()),
                                                 args.labels_R, {}, at::Reduction::Sum, -100, 0.2);
  EXPECT_TRUE(tensor_near(linear_cross_entropy(smooth, Segments::one(6)), want));
}

TEST(CrossEntropyTest, ZLossPullsLogZTowardsZero) {
  CrossEntropyArgs plain = make_args(6, 5, 11, at::kDouble), with = plain;
  with.z_loss = 0.25;
  const at::Tensor log_z_R =
      at::matmul(plain.hidden_RD, plain.weight_VD.t()).logsumexp({1}).detach();
  EXPECT_TRUE(
      tensor_near(linear_cross_entropy(with, Segments::one(6)),
                  linear_cross_entropy(plain, Segments::one(6)) + 0.25 * log_z_R.square().sum()));
  with.z_loss = -1.0;
  EXPECT_TRUE((
      throws_with<Error>([&] { linear_cross_entropy(with, Segments::one(6)); }, {"z_loss", "-1"})));
}

TEST(CrossEntropyTest, GradientsAreThoseOfCentralDifferences) {
  for (const bool per_sample : {false, true}) {
    EXPECT_TRUE(gradcheck(
        [&](const std::vector<at::Tensor>& in) {
          CrossEntropyArgs args = make_args(5, 4, 7, at::kDouble);
          args.hidden_RD = in[0];
          args.weight_VD = in[1];
          args.label_smoothing = 0.05;
          args.z_loss = 0.02;
          args.chunk_rows = 2;
          return linear_cross_entropy(args, Segments::from_lengths({2, 0, 3}, per_sample));
        },
        {randn({5, 4}, 1), randn({7, 4}, 2)}));
  }
}

TEST(CrossEntropyTest, ALowRankUpdateHasItsGradients) {
  for (const bool per_sample : {false, true}) {
    EXPECT_TRUE(gradcheck(
        [&](const std::vector<at::Tensor>& in) {
          CrossEntropyArgs args = make_args(5, 4, 7, at::kDouble);
          args.hidden_RD = in[0];
          args.weight_VD = in[1];
          args.low_RK = in[2];
          args.low_VK = in[3];
          args.label_smoothing = 0.05;
          args.z_loss = 0.02;
          args.chunk_rows = 2;
          return linear_cross_entropy(args, Segments::from_lengths({2, 0, 3}, per_sample));
        },
        {randn({5, 4}, 1), randn({7, 4}, 2), randn({5, 2}, 3), randn({7, 2}, 4)}));
  }
  // Beside a frozen head and frozen rows, too, and no rows give zeros.
  for (const int64_t rows : {0, 13}) {
    CrossEntropyArgs got = make_args(rows, 9, 37, at::kFloat);
    got.hidden_RD = got.hidden_RD.detach();
    got.weight_VD = got.weight_VD.detach();
    got.chunk_rows = 4;
    CrossEntropyArgs want = got;
    for (CrossEntropyArgs* args : {&got, &want}) {
      args->low_RK = leaf(randn({rows, 3}, 3));
      args->low_VK = leaf(randn({37, 3}, 4));
    }
    const at::Tensor loss = linear_cross_entropy(got, Segments::one(rows)),
                     ref = linear_cross_entropy_ref(want);
    EXPECT_TRUE(tensor_near(loss, ref));
    loss.backward();
    ref.backward();
    EXPECT_TRUE(tensor_near(got.low_RK.grad(), want.low_RK.grad()));
    EXPECT_TRUE(tensor_near(got.low_VK.grad(), want.low_VK.grad()));
  }
  CrossEntropyArgs half = make_args(5, 4, 7, at::kFloat);
  half.low_RK = randn({5, 2}, 3);
  EXPECT_TRUE((throws_with<Error>([&] { linear_cross_entropy(half, Segments::one(5)); },
                                  {"low_RK", "low_VK"})));
}

TEST(CrossEntropyTest, Bf16StaysNearTheReference) {
  const CrossEntropyArgs got = make_args(20, 16, 50, at::kBFloat16),
                         want = make_args(20, 16, 50, at::kBFloat16);
  const at::Tensor loss = linear_cross_entropy(got, Segments::one(20)),
                   ref = linear_cross_entropy_ref(want);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  EXPECT_TRUE(tensor_near(loss, ref, {0.05, 1e-3}));
  loss.backward();
  ref.backward();
  EXPECT_TRUE(tensor_near(got.hidden_RD.grad(), want.hidden_RD.grad(), {0.05, 0.05}));
  EXPECT_TRUE(tensor_near(got.weight_VD.grad(), want.weight_VD.grad(), {0.05, 0.05}));
}

TEST(CrossEntropyTest, FrozenHeadHasNoGradient) {
  CrossEntropyArgs args = make_args(4, 3, 9, at::kFloat);
  args.weight_VD = args.weight_VD.detach();
  linear_cross_entropy(args, Segments::one(4)).backward();
  EXPECT_FALSE(args.weight_VD.grad().defined());
  EXPECT_TRUE(args.hidden_RD.grad().defined());
}

TEST(CrossEntropyTest, NoRowsGiveZeroLossAndZeroGradients) {
  const CrossEntropyArgs args = make_args(0, 3, 9, at::kFloat);
  const at::Tensor loss = linear_cross_entropy(args, Segments::one(0));
  loss.backward();
  EXPECT_EQ(loss.item<float>(), 0.0f);
  EXPECT_TRUE(tensor_equal(args.weight_VD.grad(), at::zeros({9, 3})));
}

TEST(CrossEntropyTest, PackedEqualsOneByOneBitForBit) {
  const std::vector<int64_t> lengths = {5, 0, 1, 12, 3};
  const Segments rows = Segments::from_lengths(lengths, /*per_sample=*/true);
  for (const int64_t chunk : {4, 1024}) {
    CrossEntropyArgs packed = make_args(rows.rows(), 19, 71, at::kFloat);
    packed.chunk_rows = chunk;
    packed.z_loss = 1e-3;
    packed.row_weight_R = randn({rows.rows()}, 5).abs();
    const at::Tensor loss = linear_cross_entropy(packed, rows);
    loss.backward();
    const at::Tensor weight = leaf(packed.weight_VD.detach());
    float sum = 0.0f;
    for (int64_t s = 0; s < rows.count(); ++s) {
      CrossEntropyArgs one = packed;
      one.hidden_RD = leaf(packed.hidden_RD.detach().narrow(0, rows.begin(s), rows.length(s)));
      one.labels_R = packed.labels_R.narrow(0, rows.begin(s), rows.length(s));
      one.row_weight_R = packed.row_weight_R.narrow(0, rows.begin(s), rows.length(s));
      one.weight_VD = weight;
      const at::Tensor part =
          linear_cross_entropy(one, Segments::from_lengths({rows.length(s)}, true));
      sum += part.item<float>();
      part.backward();
      EXPECT_TRUE(same_bits(one.hidden_RD.grad(),
                            packed.hidden_RD.grad().narrow(0, rows.begin(s), rows.length(s))));
    }
    EXPECT_EQ(sum, loss.item<float>());
    EXPECT_TRUE(same_bits(weight.grad(), packed.weight_VD.grad()));
  }
}

TEST(CrossEntropyTest, RefusesALabelOutsideTheVocabulary) {
  CrossEntropyArgs args = make_args(3, 3, 9, at::kFloat);
  args.labels_R = at::tensor(std::vector<int64_t>{0, 9, 1});
  EXPECT_TRUE((throws_with<DataError>([&] { linear_cross_entropy(args, Segments::one(3)); },
                                      {"label 9", "row 1", "9"})));
}

}  // namespace
}  // namespace euromodal
