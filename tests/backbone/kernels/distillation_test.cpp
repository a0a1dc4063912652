// distillation_test.cpp — fused linear + divergence in chunks: against torch's kl_div, its
// reference, gradients, equal rows, packed = one by one.
#include "backbone/kernels/distillation/distillation.h"

#include <gtest/gtest.h>

#include "backbone/kernels/distillation/distillation_ref.h"
#include "backbone/weights/safetensors.h"
#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

at::Tensor distill_leaf(const at::Tensor& t) { return t.clone().requires_grad_(true); }

DistillationArgs distill_args(int64_t rows, int64_t width, int64_t vocab, at::ScalarType dtype) {
  DistillationArgs args;
  args.student_RD = distill_leaf(randn({rows, width}, 1, dtype));
  args.teacher_RD = randn({rows, width}, 2, dtype);
  args.weight_VD = randn({vocab, width}, 3, dtype);
  return args;
}

TEST(DistillationTest, AgreesWithTorch) {
  const SafetensorsFile file(std::string(EM_SOURCE_DIR) +
                             "/tests/backbone/kernels/goldens/distillation.safetensors");
  const auto golden = [&](const std::string& name) { return file.tensor(*file.find(name)); };
  for (const int temperature : {1, 2}) {
    DistillationArgs args;
    args.student_RD = distill_leaf(golden("student"));
    args.teacher_RD = golden("teacher");
    args.weight_VD = golden("head");
    args.row_weight_R = golden("row_weight");
    args.temperature = temperature;
    args.chunk_rows = 3;
    const at::Tensor loss = linear_distillation(args, Segments::one(7));
    loss.backward();
    EXPECT_TRUE(tensor_near(loss, golden(fmt::format("loss_{}", temperature))));
    EXPECT_TRUE(
        tensor_near(args.student_RD.grad(), golden(fmt::format("gradient_{}", temperature))));
  }
}

TEST(DistillationTest, MatchesReferenceInChunksOfAnySize) {
  for (const int64_t chunk : {1, 4, 512}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      DistillationArgs got = distill_args(13, 9, 37, dtype), want = distill_args(13, 9, 37, dtype);
      got.chunk_rows = chunk;
      got.temperature = want.temperature = 1.7;
      got.row_weight_R = want.row_weight_R = randn({13}, 5, dtype).abs();
      const at::Tensor loss = linear_distillation(got, Segments::one(13));
      const at::Tensor ref = linear_distillation_ref(want);
      EXPECT_TRUE(tensor_near(loss, ref));
      (loss * 3).backward();
      (ref * 3).backward();
      EXPECT_TRUE(tensor_near(got.student_RD.grad(), want.student_RD.grad()));
    }
  }
}

TEST(DistillationTest, Bf16StaysNearTheReference) {
  const DistillationArgs got = distill_args(20, 16, 50, at::kBFloat16),
                         want = distill_args(20, 16, 50, at::kBFloat16);
  const at::Tensor loss = linear_distillation(got, Segments::one(20)),
                   ref = linear_distillation_ref(want);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  EXPECT_TRUE(tensor_near(loss, ref, {0.05, 1e-3}));
  loss.backward();
  ref.backward();
  EXPECT_TRUE(tensor_near(got.student_RD.grad(), want.student_RD.grad(), {0.05, 0.05}));
}

TEST(DistillationTest, GradientsAreThoseOfCentralDifferences) {
  for (const bool per_sample : {false, true}) {
    EXPECT_TRUE(gradcheck(
        [&](const std::vector<at::Tensor>& in) {
          DistillationArgs args = distill_args(5, 4, 7, at::kDouble);
          args.student_RD = in[0];
          args.temperature = 2.0;
          args.chunk_rows = 2;
          args.row_weight_R = randn({5}, 5, at::kDouble).abs();
          return linear_distillation(args, Segments::from_lengths({2, 0, 3}, per_sample));
        },
        {randn({5, 4}, 1)}));
  }
}

TEST(DistillationTest, AStudentThatIsTheTeacherHasNothingToLearn) {
  DistillationArgs args = distill_args(6, 5, 301, at::kFloat);
  args.student_RD = distill_leaf(args.teacher_RD);
  const at::Tensor loss = linear_distillation(args, Segments::one(6));
  loss.backward();
  EXPECT_NEAR(loss.item<double>(), 0.0, 1e-6);
  // p and q are products of sums that the compiler may contract differently: rounding, no more.
  EXPECT_LT(args.student_RD.grad().abs().max().item<double>(), 1e-7);
}

TEST(DistillationTest, PackedEqualsOneByOneBitForBit) {
  const Segments rows = Segments::from_lengths({5, 0, 1, 12, 3}, /*per_sample=*/true);
  for (const int64_t chunk : {4, 512}) {
    DistillationArgs packed = distill_args(rows.rows(), 19, 71, at::kFloat);
    packed.chunk_rows = chunk;
    packed.temperature = 2.0;
    packed.row_weight_R = randn({rows.rows()}, 5).abs();
    const at::Tensor loss = linear_distillation(packed, rows);
    loss.backward();
    float sum = 0.0f;
    for (int64_t s = 0; s < rows.count(); ++s) {
      const auto part = [&](const at::Tensor& x) {
        return x.detach().narrow(0, rows.begin(s), rows.length(s));
      };
      DistillationArgs one = packed;
      one.student_RD = distill_leaf(part(packed.student_RD));
      one.teacher_RD = part(packed.teacher_RD);
      one.row_weight_R = part(packed.row_weight_R);
      const at::Tensor one_loss =
          linear_distillation(one, Segments::from_lengths({rows.length(s)}, true));
      one_loss.backward();
      sum += one_loss.item<float>();
      EXPECT_TRUE(same_bits(one.student_RD.grad(), part(packed.student_RD.grad())));
    }
    EXPECT_EQ(sum, loss.item<float>());
  }
}

TEST(DistillationTest, FaultsAreNamed) {
  const auto fails = [](const auto& change, std::initializer_list<std::string_view> words) {
    DistillationArgs args = distill_args(3, 4, 7, at::kFloat);
    change(args);
    return throws_with<Error>([&] { linear_distillation(args, Segments::one(3)); }, words);
  };
  EXPECT_TRUE(fails([](auto& a) { a.weight_VD.requires_grad_(true); }, {"must be frozen"}));
  EXPECT_TRUE(fails([](auto& a) { a.teacher_RD = randn({2, 4}, 1); }, {"teacher_RD", "[2, 4]"}));
  EXPECT_TRUE(fails([](auto& a) { a.temperature = 0.0; }, {"temperature", "0"}));
}

}  // namespace
}  // namespace euromodal
