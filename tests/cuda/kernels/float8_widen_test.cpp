// float8_widen_test.cpp — widening of float8 weights: every code by every power of two, bit for bit
// the host's; odd widths and places in memory.
#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/linear/float8_weight.h"
#include "backbone/kernels/linear/float8_widen_kernel.h"
#include "tests/support/device_buffer.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::small_sizes;

class Float8WidenTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  DType kernel_type() const {
    return GetParam() == at::kFloat      ? DType::kF32
           : GetParam() == at::kBFloat16 ? DType::kBf16
                                         : DType::kF16;
  }
  /// `skip`: bytes in front of the codes, so that they are not aligned.
  at::Tensor widened(const at::Tensor& bytes_OI, const at::Tensor& scale_O,
                     int64_t skip = 0) const {
    const DeviceBuffer codes(at::cat({at::zeros({skip}, at::kByte), bytes_OI.flatten()})),
        scale(scale_O), out = DeviceBuffer::poisoned(bytes_OI.sizes(), GetParam());
    EXPECT_EQ(float8_widen({.codes_OI = codes.as<uint8_t>() + skip,
                            .scale_O = scale.as<float>(),
                            .out_OI = out.data(),
                            .O = bytes_OI.size(0),
                            .I = bytes_OI.size(1),
                            .type = kernel_type()},
                           nullptr),
              cudaSuccess);
    return out.tensor();
  }
  /// NaN where both have NaN (its bits mean nothing), else the same bits.
  static testing::AssertionResult same(const at::Tensor& got, const at::Tensor& want) {
    const at::ScalarType bits = want.element_size() == 4 ? at::kInt : at::kShort;
    const at::Tensor differ = got.view(bits)
                                  .ne(want.view(bits))
                                  .logical_and(got.isnan().logical_and(want.isnan()).logical_not());
    if (!differ.any().item<bool>()) return testing::AssertionSuccess();
    const at::Tensor first = differ.nonzero()[0];
    return testing::AssertionFailure()
           << differ.sum().item<int64_t>() << " numbers differ, first [" << first[0].item<int64_t>()
           << ", " << first[1].item<int64_t>() << "]";
  }
};

TEST_P(Float8WidenTest, EveryCodeByEveryPowerOfTwo) {
  EM_NEEDS_GPU();
  std::vector<float> scales;
  for (int exponent = -149; exponent <= 127; ++exponent)
    scales.push_back(std::ldexp(1.0F, exponent));
  const auto rows = static_cast<int64_t>(scales.size());
  const at::Tensor bytes = at::arange(256).to(at::kByte).repeat({rows, 1}),
                   scale_O = at::tensor(scales);
  const at::Tensor want = widen_float8(bytes.view(at::kFloat8_e4m3fn), scale_O, GetParam());
  EXPECT_EQ(want.isnan().sum().item<int64_t>(), 2 * rows);
  EXPECT_TRUE(same(widened(bytes, scale_O), want));
}

TEST_P(Float8WidenTest, OddSizesAndPlaces) {
  EM_NEEDS_GPU();
  at::manual_seed(1);
  std::vector<std::pair<int64_t, int64_t>> sizes = {{1, 1}, {3, 7}, {5, 64}, {2, 4100}, {33, 97}};
  if (!small_sizes()) sizes.emplace_back(32768, 6144);
  for (const auto& [O, I] : sizes) {
    const at::Tensor bytes = at::randint(0, 256, {O, I}).to(at::kByte),
                     scale_O = at::pow(2.0F, at::randint(-20, 20, {O}).to(at::kFloat));
    const at::Tensor want = widen_float8(bytes.view(at::kFloat8_e4m3fn), scale_O, GetParam());
    for (const int64_t skip : {0, 3})
      EXPECT_TRUE(same(widened(bytes, scale_O, skip), want)) << O << " x " << I << " + " << skip;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Float8WidenTest,
                         testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

}  // namespace
}  // namespace euromodal
