// cross_entropy_test.cpp — the row pass of the fused cross-entropy against ATen in double: widths
// that leave scalars on either side of the 16-byte vectors, weights, smoothing, z-loss, all dtypes,
// with and without gradient, far-off logits, and twice the same bits.
#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/cross_entropy/cross_entropy_kernel.h"
#include "tests/support/device_buffer.h"
#include "tests/support/row_kernel.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::small_sizes;
using testing_support::tensor_equal;
using testing_support::tensor_near;

struct Options {
  bool weighted = false, gradient = true;
  double smoothing = 0.0, z_loss = 0.0;
};

DType kernel_type(at::ScalarType type) {
  return type == at::kFloat ? DType::kF32 : type == at::kHalf ? DType::kF16 : DType::kBf16;
}

struct Rows {
  at::Tensor logits_RV, labels_R, weight_R;
};

Rows rows_of(int64_t R, int64_t V, at::ScalarType type) {
  at::manual_seed(static_cast<uint64_t>(R * 131 + V));
  at::Tensor labels_R = at::randint(V, {R}, at::kLong);
  if (R > 1) {  // both ends of a row, which are scalars where its address is odd
    labels_R[0].fill_(0);
    labels_R[R - 1].fill_(V - 1);
  }
  return {(at::randn({R, V}) * 4).to(type), labels_R, at::rand({R}) + 0.5};
}

struct Result {
  at::Tensor loss_R, logits_RV;
};

Result run(const Rows& rows, const Options& options) {
  const int64_t R = rows.logits_RV.size(0), V = rows.logits_RV.size(1);
  const DeviceBuffer logits(rows.logits_RV), labels(rows.labels_R), weight(rows.weight_R);
  const DeviceBuffer loss = DeviceBuffer::poisoned({R}, at::kFloat);
  EXPECT_EQ(cross_entropy_rows({.logits_RV = logits.data(),
                                .labels_R = labels.as<int64_t>(),
                                .row_weight_R = options.weighted ? weight.as<float>() : nullptr,
                                .loss_R = loss.as<float>(),
                                .rows = R,
                                .vocab = V,
                                .smoothing = static_cast<float>(options.smoothing),
                                .z_loss = static_cast<float>(options.z_loss),
                                .gradient = options.gradient,
                                .type = kernel_type(rows.logits_RV.scalar_type())},
                               nullptr),
            cudaSuccess);
  return {loss.tensor(), logits.tensor()};
}

// Loss and gradient by ATen's own rules in double.
Result want(const Rows& rows, const Options& options) {
  const at::Tensor z = rows.logits_RV.to(at::kDouble).requires_grad_(true);
  const at::Tensor log_p = z.log_softmax(1);
  at::Tensor loss_R =
      -log_p.gather(1, rows.labels_R.unsqueeze(1)).squeeze(1) * (1 - options.smoothing) +
      z.logsumexp({1}).square() * options.z_loss;
  if (options.smoothing > 0.0) loss_R = loss_R - log_p.mean(1) * options.smoothing;
  if (options.weighted) loss_R = loss_R * rows.weight_R.to(at::kDouble);
  loss_R.sum().backward();
  return {loss_R.detach(), z.grad()};
}

TEST(CrossEntropyKernelTest, MatchesTheReference) {
  EM_NEEDS_GPU();
  std::vector<std::array<int64_t, 2>> sizes{{1, 1}, {3, 5}, {4, 37}, {2, 1031}, {5, 2048}};
  if (!small_sizes()) sizes.insert(sizes.end(), {{300, 128000}, {70, 128003}});
  const Options cases[] = {{},
                           {.weighted = true, .smoothing = 0.1},
                           {.z_loss = 1e-3},
                           {.weighted = true, .smoothing = 0.2, .z_loss = 1e-2}};
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const auto& [R, V] : sizes) {
      for (const Options& options : cases) {
        SCOPED_TRACE(fmt::format("{} x {} {}, smoothing {}, z {}", R, V, c10::toString(type),
                                 options.smoothing, options.z_loss));
        const Rows rows = rows_of(R, V, type);
        const Result expected = want(rows, options), got = run(rows, options);
        EXPECT_TRUE(tensor_near(got.loss_R, expected.loss_R, {.abs = 2e-5, .rel = 2e-5}));
        // One rounding to the logits' dtype.
        const double step = type == at::kFloat ? 4e-6 : type == at::kHalf ? 6e-4 : 4.5e-3;
        EXPECT_TRUE(tensor_near(got.logits_RV, expected.logits_RV, {.abs = 1e-6, .rel = step}));
        Options plain = options;
        plain.gradient = false;
        const Result loss_only = run(rows, plain);
        EXPECT_TRUE(tensor_near(loss_only.loss_R, expected.loss_R, {.abs = 2e-5, .rel = 2e-5}));
        EXPECT_TRUE(tensor_equal(loss_only.logits_RV, rows.logits_RV));
        const Result again = run(rows, options);
        EXPECT_TRUE(again.loss_R.equal(got.loss_R) && again.logits_RV.equal(got.logits_RV));
      }
    }
  }
}

// Longer than shared memory: the end of a row is read twice. f32 reaches that with 58 000 columns.
TEST(CrossEntropyKernelTest, RowsLongerThanSharedMemory) {
  EM_NEEDS_GPU();
  const Rows rows = rows_of(1, 60001, at::kFloat);
  const Result expected = want(rows, {}), got = run(rows, {});
  EXPECT_TRUE(tensor_near(got.loss_R, expected.loss_R, {.abs = 2e-5, .rel = 2e-5}));
  EXPECT_TRUE(tensor_near(got.logits_RV, expected.logits_RV, {.abs = 1e-9, .rel = 1e-5}));
}

TEST(CrossEntropyKernelTest, FarOffLogits) {
  EM_NEEDS_GPU();
  Rows rows = rows_of(4, 300, at::kFloat);
  const float inf = std::numeric_limits<float>::infinity();
  rows.logits_RV[0].add_(1e4);                     // exp would overflow
  rows.logits_RV[1].sub_(1e4);                     // and underflow
  rows.logits_RV[2].slice(0, 0, 200).fill_(-inf);  // banned, the first ones seen
  rows.labels_R[2].fill_(250);
  rows.logits_RV[3].fill_(-2.5);  // all equal
  const Result expected = want(rows, {}), got = run(rows, {});
  EXPECT_TRUE(tensor_near(got.loss_R, expected.loss_R, {.abs = 1e-3, .rel = 2e-5}));
  EXPECT_TRUE(tensor_near(got.logits_RV, expected.logits_RV, {.abs = 1e-6, .rel = 1e-5}));
}

TEST(CrossEntropyKernelTest, LabelOutsideTheVocabularyMakesItsRowNan) {
  EM_NEEDS_GPU();
  Rows rows = rows_of(3, 100, at::kFloat);
  rows.labels_R[0].fill_(-100);
  rows.labels_R[2].fill_(100);
  const at::Tensor loss_R = run(rows, {}).loss_R;
  EXPECT_TRUE(loss_R.isnan().to(at::kLong).equal(at::tensor({1, 0, 1}, at::kLong)));
}

TEST(CrossEntropyKernelTest, SizesThatItRefusesAndNoRows) {
  EM_NEEDS_GPU();
  testing_support::expect_row_kernel_refusals<CrossEntropyRowsArgs>(&cross_entropy_rows);
}

// 2^31 elements and some more in one chunk.
TEST(CrossEntropyKernelTest, IndicesBeyond31Bits) {
  EM_NEEDS_GPU();
  if (!testing_support::large_sizes())
    GTEST_SKIP() << "needs 4.3 GB; runs on a GPU, or with EUROMODAL_LARGE_TESTS=1";
  const int64_t R = 16800, V = 128000;
  const Rows few = rows_of(8, V, at::kBFloat16);
  const Rows rows{few.logits_RV.repeat({R / 8, 1}), few.labels_R.repeat({R / 8}), at::ones({R})};
  const Result small = run(few, {}), got = run(rows, {});
  EXPECT_TRUE(got.loss_R.equal(small.loss_R.repeat({R / 8})));
  EXPECT_TRUE(got.logits_RV.slice(0, R - 8).equal(small.logits_RV));
}

}  // namespace
}  // namespace euromodal
