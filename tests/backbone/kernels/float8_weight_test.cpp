// float8_weight_test.cpp — frozen matrices in float8: rounding, exact widening, and products that
// are those with the rounded matrix bit for bit, with their gradients, with and without a LoRA.
#include "backbone/kernels/linear/float8_weight.h"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/linear/linear.h"
#include "backbone/kernels/linear/lora_linear.h"
#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

at::Tensor widened(const Float8Weight& w, at::ScalarType dtype) {
  return widen_float8(w.codes_OI, w.scale_O, dtype);
}

/// Rows of very different sizes, one of zeros.
at::Tensor rows_of_all_sizes(int64_t O, int64_t I, uint64_t seed, at::ScalarType dtype) {
  const at::Tensor w = randn({O, I}, seed, at::kFloat);
  for (int64_t o = 0; o < O; ++o)
    w.select(0, o).mul_(std::pow(10.0, static_cast<double>(o % 7) - 4.0));
  if (O > 2) w.select(0, 2).zero_();
  return w.to(dtype);
}

TEST(Float8WeightTest, RoundsToTheNearestOfThreeBits) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const at::Tensor w = rows_of_all_sizes(9, 130, 1, dtype);
    const Float8Weight got = round_to_float8(w);
    EXPECT_EQ(got.codes_OI.scalar_type(), at::kFloat8_e4m3fn);
    const at::Tensor wide = widened(got, at::kDouble), exact = w.to(at::kDouble);
    for (int64_t o = 0; o < 9; ++o) {
      const double scale = got.scale_O[o].item<double>();
      EXPECT_EQ(std::exp2(std::round(std::log2(scale))), scale);  // a power of two
      const double largest = exact[o].abs().max().item<double>();
      if (largest == 0.0) continue;
      EXPECT_LE(largest, 448.0 * scale);
      EXPECT_GT(largest, 224.0 * scale);
      // Half a unit in the last of three bits, or half of the smallest number.
      const at::Tensor bound = at::maximum(exact[o].abs() / 16.0, at::full({}, scale * 0x1p-10));
      EXPECT_TRUE(((wide[o] - exact[o]).abs() <= bound).all().item<bool>()) << o;
    }
    EXPECT_EQ(wide[2].abs().max().item<double>(), 0.0);
  }
}

TEST(Float8WeightTest, WideningRoundsNothing) {
  const Float8Weight w = round_to_float8(rows_of_all_sizes(17, 64, 2, at::kFloat));
  const at::Tensor exact = w.codes_OI.to(at::kDouble) * w.scale_O.to(at::kDouble).unsqueeze(1);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble})
    EXPECT_TRUE(at::equal(widened(w, dtype).to(at::kDouble), exact)) << c10::toString(dtype);
  EXPECT_TRUE(at::equal(widened(w, at::kHalf), exact.to(at::kFloat).to(at::kHalf)));
  // So what it gives is a matrix that it keeps as it is.
  const Float8Weight again = round_to_float8(widened(w, at::kBFloat16));
  EXPECT_TRUE(at::equal(widened(again, at::kDouble), exact));
  // Every code.
  const at::Tensor codes =
      at::arange(256, at::kByte).masked_fill(at::arange(256).remainder(128) == 127, 0);
  const at::Tensor all = codes.view({1, 256}).view(at::kFloat8_e4m3fn);
  EXPECT_TRUE(
      at::equal(widen_float8(all, at::full({1}, 0.5F), at::kFloat), all.to(at::kFloat) * 0.5F));
}

TEST(Float8WeightTest, SmallAndEmptyMatrices) {
  const Float8Weight tiny = round_to_float8(at::full({2, 3}, 1e-38F));
  EXPECT_TRUE(at::isfinite(widened(tiny, at::kBFloat16)).all().item<bool>());
  for (const auto& shape : {std::array<int64_t, 2>{0, 4}, {4, 0}})
    EXPECT_EQ(widened(round_to_float8(at::zeros(shape)), at::kFloat).sizes(),
              at::IntArrayRef(shape));
}

/// Output and gradients of one product, its graph run backward by drawn numbers.
std::vector<at::Tensor> product_and_gradients(
    const std::vector<at::Tensor>& inputs,
    const std::function<at::Tensor(const std::vector<at::Tensor>&)>& product) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs)
    leaves.push_back(input.detach().clone().requires_grad_(true));
  const at::Tensor y = product(leaves);
  y.backward(randn(y.sizes(), 77, y.scalar_type()));
  std::vector<at::Tensor> out = {y.detach()};
  for (const at::Tensor& leaf : leaves) out.push_back(leaf.grad());
  return out;
}

class Float8ProductTest : public testing::TestWithParam<std::tuple<at::ScalarType, bool>> {};

TEST_P(Float8ProductTest, IsThatWithTheRoundedMatrixBitForBit) {
  const auto [dtype, per_sample] = GetParam();
  const Segments rows = Segments::from_lengths({5, 0, 8}, per_sample);
  const Float8Weight w = round_to_float8(rows_of_all_sizes(33, 48, 3, dtype));
  const at::Tensor wide = widened(w, dtype);
  const at::Tensor x = randn({13, 48}, 4, dtype), b = randn({33}, 5, dtype);
  const auto same = [](const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& want) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(same_bits(got[i], want[i])) << i;
  };
  EXPECT_TRUE(same_bits(linear(x, w.codes_OI, b, rows, w.scale_O), linear(x, wide, b, rows)));
  same(product_and_gradients(
           {x, b}, [&](auto in) { return linear(in[0], w.codes_OI, in[1], rows, w.scale_O); }),
       product_and_gradients({x, b}, [&](auto in) { return linear(in[0], wide, in[1], rows); }));
  same(product_and_gradients(
           {x}, [&](auto in) { return linear(in[0], w.codes_OI, {}, rows, w.scale_O); }),
       product_and_gradients({x}, [&](auto in) { return linear(in[0], wide, {}, rows); }));
  const at::Tensor A = randn({4, 48}, 6, dtype), B = randn({33, 4}, 7, dtype);
  for (const double dropout : {0.0, 0.3}) {
    const auto lora = [&](const at::Tensor& weight, const at::Tensor& scale) {
      return product_and_gradients({x, A, B, b}, [&, weight, scale](auto in) {
        return lora_linear(in[0], weight, in[3], {in[1], in[2], 0.7, dropout, {1, 2, 3}}, rows,
                           scale);
      });
    };
    same(lora(w.codes_OI, w.scale_O), lora(wide, {}));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Float8ProductTest,
                         testing::Combine(testing::Values(at::kFloat, at::kBFloat16, at::kDouble),
                                          testing::Bool()));

TEST(Float8WeightTest, FaultsAreNamed) {
  at::Tensor w = randn({3, 4}, 1);
  w[1][2] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(throws_with<Error>([&] { round_to_float8(w); }, {"row 1", "inf", "finite"}));
  const Float8Weight fine = round_to_float8(randn({3, 4}, 1));
  const at::Tensor x = randn({2, 4}, 2);
  const Segments rows = Segments::one(2);
  EXPECT_TRUE(throws_with<Error>([&] { linear(x, fine.codes_OI, {}, rows); },
                                 {"linear", "scale_O", "undefined"}));
  EXPECT_TRUE(
      throws_with<Error>([&] { linear(x, fine.codes_OI, {}, rows, fine.scale_O.narrow(0, 0, 2)); },
                         {"scale_O", "[2]", "[3]"}));
  EXPECT_TRUE(throws_with<Error>(
      [&] {
        linear(x, randn({3, 4}, 1), {}, rows, fine.scale_O);
      },
      {"float8", "Float"}));
  EXPECT_TRUE(throws_with<Error>([&] { widen_float8(x, fine.scale_O, at::kFloat); },
                                 {"codes_OI", "Float", "Float8_e4m3fn"}));
}

}  // namespace
}  // namespace euromodal
