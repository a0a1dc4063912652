// cross_entropy_test.cpp — the fused losses on a GPU against the same on the CPU: values, losses of
// rows and gradients, in several chunks, with a trained and a frozen head.
#include "backbone/kernels/cross_entropy/cross_entropy.h"

#include "backbone/kernels/distillation/distillation.h"
#include "tests/cuda/ops/gpu.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::tensor_near;
using testing_support::Tolerance;

struct Given {
  at::Tensor hidden_RD, other_RD, weight_VD, labels_R, row_weight_R;
};

Given given(int64_t R, int64_t D, int64_t V, at::ScalarType type) {
  at::manual_seed(static_cast<uint64_t>(V));
  return {at::randn({R, D}).to(type), at::randn({R, D}).to(type),
          (at::randn({V, D}) * 0.3).to(type), at::randint(V, {R}, at::kLong), at::rand({R}) + 0.5};
}

struct Result {
  at::Tensor loss, row_loss_R, dhidden_RD, dweight_VD;
};

Result cross_entropy_on(const Given& g, at::Device device, bool trained_head, double smoothing) {
  const at::Tensor hidden = g.hidden_RD.to(device).requires_grad_(true),
                   weight = g.weight_VD.to(device).requires_grad_(trained_head);
  at::Tensor row_loss;
  const at::Tensor loss = linear_cross_entropy({.hidden_RD = hidden,
                                                .weight_VD = weight,
                                                .labels_R = g.labels_R.to(device),
                                                .row_weight_R = g.row_weight_R.to(device),
                                                .label_smoothing = smoothing,
                                                .z_loss = 1e-3,
                                                .chunk_rows = 100,
                                                .row_loss_R = &row_loss},
                                               Segments::one(hidden.size(0)));
  (loss * 2).backward();
  return {loss.detach(), row_loss, hidden.grad(), weight.grad()};
}

Result distillation_on(const Given& g, at::Device device) {
  const at::Tensor student = g.hidden_RD.to(device).requires_grad_(true);
  at::Tensor row_loss;
  const at::Tensor loss = linear_distillation({.student_RD = student,
                                               .teacher_RD = g.other_RD.to(device),
                                               .weight_VD = g.weight_VD.to(device),
                                               .row_weight_R = g.row_weight_R.to(device),
                                               .temperature = 2.0,
                                               .chunk_rows = 100,
                                               .row_loss_R = &row_loss},
                                              Segments::one(student.size(0)));
  (loss * 2).backward();
  return {loss.detach(), row_loss, student.grad(), {}};
}

void expect_near(const Result& got, const Result& want, Tolerance tolerance) {
  EXPECT_TRUE(tensor_near(got.loss, want.loss, {.abs = 0.0, .rel = tolerance.rel}));
  EXPECT_TRUE(tensor_near(got.row_loss_R, want.row_loss_R, tolerance));
  EXPECT_FALSE(got.row_loss_R.requires_grad());
  EXPECT_TRUE(tensor_near(got.dhidden_RD, want.dhidden_RD, tolerance));
  ASSERT_EQ(got.dweight_VD.defined(), want.dweight_VD.defined());
  if (want.dweight_VD.defined()) {
    EXPECT_TRUE(tensor_near(got.dweight_VD, want.dweight_VD, tolerance));
  }
}

Tolerance tolerance_of(at::ScalarType type) {
  return type == at::kFloat ? Tolerance{1e-4, 1e-3} : Tolerance{3e-2, 3e-2};
}

TEST(LossesOnGpuTest, CrossEntropyIsThatOfTheCpu) {
  EM_ON_GPU(device);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t V : {1001, 4096}) {
      const Given g = given(257, 64, V, type);
      for (const bool trained : {false, true}) {
        for (const double smoothing : {0.0, 0.1}) {
          SCOPED_TRACE(fmt::format("{} V {} trained {} smoothing {}", c10::toString(type), V,
                                   trained, smoothing));
          const Result got = cross_entropy_on(g, device, trained, smoothing);
          expect_near(got, cross_entropy_on(g, at::kCPU, trained, smoothing), tolerance_of(type));
          const Result again = cross_entropy_on(g, device, trained, smoothing);
          EXPECT_TRUE(again.loss.equal(got.loss) && again.dhidden_RD.equal(got.dhidden_RD));
        }
      }
    }
  }
}

TEST(LossesOnGpuTest, DistillationIsThatOfTheCpu) {
  EM_ON_GPU(device);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    SCOPED_TRACE(c10::toString(type));
    const Given g = given(257, 64, 1001, type);
    expect_near(distillation_on(g, device), distillation_on(g, at::kCPU), tolerance_of(type));
  }
}

}  // namespace
}  // namespace euromodal
