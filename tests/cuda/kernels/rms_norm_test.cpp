// rms_norm_test.cpp — the RMSNorm kernels against rms_norm_ref in double: odd widths, one row, no
// row, both dtypes, and twice the same bits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/rms_norm/rms_norm_kernel.h"
#include "backbone/kernels/rms_norm/rms_norm_ref.h"
#include "tests/support/device_buffer.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::tensor_near;

struct Case {
  int64_t T, D;
};

std::vector<Case> cases() {
  std::vector<Case> out{{1, 1}, {3, 7}, {5, 256}, {70, 300}, {2, 1031}, {0, 16}};
  if (!testing_support::small_sizes()) out.insert(out.end(), {{4096, 6144}, {513, 6145}});
  return out;
}

struct Result {
  at::Tensor y, dx, dw;
};

Result run(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& dy_TD, float eps) {
  const int64_t T = x_TD.size(0), D = x_TD.size(1);
  const DType type = x_TD.scalar_type() == at::kFloat ? DType::kF32 : DType::kBf16;
  const DeviceBuffer x(x_TD), w(w_D), dy(dy_TD);
  const DeviceBuffer y = DeviceBuffer::poisoned({T, D}, x_TD.scalar_type()),
                     dx = DeviceBuffer::poisoned({T, D}, x_TD.scalar_type()),
                     dw = DeviceBuffer::poisoned({D}, x_TD.scalar_type()),
                     inv = DeviceBuffer::poisoned({T}, at::kFloat),
                     partial = DeviceBuffer::poisoned({kRmsNormPartials, D}, at::kFloat);
  EXPECT_EQ(
      rms_norm_forward({x.data(), w.data(), y.data(), inv.as<float>(), T, D, eps, type}, nullptr),
      cudaSuccess);
  EXPECT_EQ(rms_norm_backward({dy.data(), x.data(), w.data(), inv.as<float>(), dx.data(), dw.data(),
                               partial.as<float>(), T, D, type},
                              nullptr),
            cudaSuccess);
  return {y.tensor(), dx.tensor(), dw.tensor()};
}

at::Tensor inv_rms(const at::Tensor& x_TD, double eps) {
  return at::rsqrt(x_TD.to(at::kDouble).square().mean(1) + eps).to(at::kFloat);
}

TEST(RmsNormKernelTest, MatchesTheReference) {
  EM_NEEDS_GPU();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [T, D] : cases()) {
      SCOPED_TRACE(fmt::format("{} x {} {}", T, D, c10::toString(type)));
      at::manual_seed(static_cast<uint64_t>(D));
      const at::Tensor x = at::randn({T, D}).to(type), w = (1 + 0.1 * at::randn({D})).to(type),
                       dy = at::randn({T, D}).to(type);
      const at::Tensor x64 = x.to(at::kDouble).requires_grad_(true),
                       w64 = w.to(at::kDouble).requires_grad_(true);
      const at::Tensor y64 = rms_norm_ref(x64, w64, 1e-5);
      (y64 * dy.to(at::kDouble)).sum().backward();
      const Result got = run(x, w, dy, 1e-5F);
      const bool wide = type == at::kFloat;
      const double per_row = wide ? 1e-5 : 2e-2,
                   summed = wide ? 2e-4 : 5e-2 * std::sqrt(static_cast<double>(T) + 1);
      EXPECT_TRUE(tensor_near(got.y, y64.detach(), {.abs = per_row, .rel = per_row}));
      EXPECT_TRUE(tensor_near(got.dx, x64.grad(), {.abs = per_row, .rel = per_row}));
      EXPECT_TRUE(tensor_near(got.dw, w64.grad(), {.abs = summed, .rel = wide ? 1e-3 : 2e-2}));
      const DeviceBuffer dy_in(dy), x_in(x), w_in(w), inv(inv_rms(x, 1e-5)),
          dx = DeviceBuffer::poisoned({T, D}, type);
      EXPECT_EQ(
          rms_norm_backward({dy_in.data(), x_in.data(), w_in.data(), inv.as<float>(), dx.data(),
                             nullptr, nullptr, T, D, wide ? DType::kF32 : DType::kBf16},
                            nullptr),
          cudaSuccess);
      EXPECT_TRUE(tensor_near(dx.tensor(), x64.grad(), {.abs = per_row, .rel = per_row}))
          << "a frozen weight";
      const Result again = run(x, w, dy, 1e-5F);
      EXPECT_TRUE(got.y.equal(again.y) && got.dx.equal(again.dx) && got.dw.equal(again.dw));
    }
  }
}

}  // namespace
}  // namespace euromodal
