// distillation_test.cpp — the row pass of the fused distillation loss against ATen in double:
// widths that leave scalars on either side of the 16-byte vectors, weights, temperatures, all
// dtypes, with and without gradient, far-off logits, equal rows, and twice the same bits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/distillation/distillation_kernel.h"
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
  double temperature = 1.0;
};

struct Rows {
  at::Tensor student_RV, teacher_RV, weight_R;
};

Rows rows_of(int64_t R, int64_t V, at::ScalarType type) {
  at::manual_seed(static_cast<uint64_t>(R * 131 + V));
  return {(at::randn({R, V}) * 3).to(type), (at::randn({R, V}) * 4).to(type), at::rand({R}) + 0.5};
}

struct Result {
  at::Tensor loss_R, student_RV;
};

Result run(const Rows& rows, const Options& options) {
  const int64_t R = rows.student_RV.size(0), V = rows.student_RV.size(1);
  const at::ScalarType type = rows.student_RV.scalar_type();
  const DeviceBuffer student(rows.student_RV), teacher(rows.teacher_RV), weight(rows.weight_R);
  const DeviceBuffer loss = DeviceBuffer::poisoned({R}, at::kFloat);
  EXPECT_EQ(distillation_rows({.student_RV = student.data(),
                               .teacher_RV = teacher.data(),
                               .row_weight_R = options.weighted ? weight.as<float>() : nullptr,
                               .loss_R = loss.as<float>(),
                               .rows = R,
                               .vocab = V,
                               .inverse_temperature = static_cast<float>(1.0 / options.temperature),
                               .gradient = options.gradient,
                               .type = type == at::kFloat  ? DType::kF32
                                       : type == at::kHalf ? DType::kF16
                                                           : DType::kBf16},
                              nullptr),
            cudaSuccess);
  EXPECT_TRUE(tensor_equal(teacher.tensor(), rows.teacher_RV));
  return {loss.tensor(), student.tensor()};
}

Result want(const Rows& rows, const Options& options) {
  const at::Tensor z = rows.student_RV.to(at::kDouble).requires_grad_(true);
  const at::Tensor log_q = (z / options.temperature).log_softmax(1),
                   log_p = (rows.teacher_RV.to(at::kDouble) / options.temperature).log_softmax(1);
  at::Tensor loss_R = (log_p.exp() * (log_p - log_q)).sum(1);
  if (options.weighted) loss_R = loss_R * rows.weight_R.to(at::kDouble);
  loss_R.sum().backward();
  return {loss_R.detach(), z.grad()};
}

void expect_near(const Rows& rows, const Options& options, double loss_tolerance = 2e-5) {
  const at::ScalarType type = rows.student_RV.scalar_type();
  const Result expected = want(rows, options), got = run(rows, options);
  EXPECT_TRUE(tensor_near(got.loss_R, expected.loss_R, {.abs = loss_tolerance, .rel = 2e-5}));
  // One rounding to the logits' dtype; the difference of two probabilities may cancel.
  const double step = type == at::kFloat ? 4e-6 : type == at::kHalf ? 6e-4 : 4.5e-3;
  EXPECT_TRUE(tensor_near(got.student_RV, expected.student_RV, {.abs = 1e-6, .rel = step}));
  Options plain = options;
  plain.gradient = false;
  const Result loss_only = run(rows, plain);
  EXPECT_TRUE(tensor_near(loss_only.loss_R, expected.loss_R, {.abs = loss_tolerance, .rel = 2e-5}));
  EXPECT_TRUE(tensor_equal(loss_only.student_RV, rows.student_RV));
  const Result again = run(rows, options);
  EXPECT_TRUE(again.loss_R.equal(got.loss_R) && again.student_RV.equal(got.student_RV));
}

TEST(DistillationKernelTest, MatchesTheReference) {
  EM_NEEDS_GPU();
  std::vector<std::array<int64_t, 2>> sizes{{1, 1}, {3, 5}, {4, 37}, {2, 1031}, {5, 2048}};
  if (!small_sizes()) sizes.insert(sizes.end(), {{300, 128000}, {70, 128003}});
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const auto& [R, V] : sizes) {
      for (const Options& options : {Options{}, Options{.weighted = true, .temperature = 2.0},
                                     Options{.temperature = 0.5}}) {
        SCOPED_TRACE(
            fmt::format("{} x {} {}, T {}", R, V, c10::toString(type), options.temperature));
        expect_near(rows_of(R, V, type), options);
      }
    }
  }
}

// Longer than shared memory: the end of both rows is read twice.
TEST(DistillationKernelTest, RowsLongerThanSharedMemory) {
  EM_NEEDS_GPU();
  expect_near(rows_of(1, 32001, at::kFloat), {});
}

TEST(DistillationKernelTest, FarOffLogitsAndEqualRows) {
  EM_NEEDS_GPU();
  Rows rows = rows_of(4, 300, at::kFloat);
  rows.student_RV[0].add_(500.0);  // exp would overflow
  rows.teacher_RV[1].sub_(500.0);  // and underflow
  rows.student_RV[2].copy_(rows.teacher_RV[2]);
  rows.student_RV[3].fill_(-2.5);
  expect_near(rows, {}, 2e-4);
  EXPECT_NEAR(run(rows, {}).loss_R[2].item<double>(), 0.0, 1e-6);
}

TEST(DistillationKernelTest, SizesThatItRefusesAndNoRows) {
  EM_NEEDS_GPU();
  testing_support::expect_row_kernel_refusals<DistillationRowsArgs>(&distillation_rows);
}

}  // namespace
}  // namespace euromodal
