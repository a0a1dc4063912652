// rms_norm_test.cpp — the RMSNorm kernels against rms_norm_ref in double: odd widths, one row, no
// row, more rows than partial sums, rows that no block can keep, all dtypes, unaligned memory, and
// twice the same bits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/rms_norm/rms_norm_kernel.h"
#include "backbone/kernels/rms_norm/rms_norm_ref.h"
#include "tests/support/kernel_buffers.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::kernel_type;
using testing_support::kKernelTypes;
using testing_support::ShiftedBuffer;
using testing_support::tensor_near;

struct Case {
  int64_t T, D;
  int64_t shift = 0;  // elements behind an aligned address
};

std::vector<Case> cases() {
  std::vector<Case> out{{1, 1},  {3, 7},    {5, 256},  {70, 300},  {2, 1031},
                        {0, 16}, {300, 64}, {2, 6144}, {2, 12296}, {5, 256, 1}};
  if (!testing_support::small_sizes()) out.insert(out.end(), {{4096, 6144}, {513, 6145}});
  return out;
}

struct Result {
  at::Tensor y, dx, dw;
};

Result run(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& dy_TD, float eps,
           int64_t shift) {
  const int64_t T = x_TD.size(0), D = x_TD.size(1);
  const DType type = kernel_type(x_TD.scalar_type());
  const ShiftedBuffer x(x_TD, shift), w(w_D, shift), dy(dy_TD, shift),
      y = ShiftedBuffer::poisoned({T, D}, x_TD.scalar_type(), shift),
      dx = ShiftedBuffer::poisoned({T, D}, x_TD.scalar_type(), shift);
  const DeviceBuffer dw = DeviceBuffer::poisoned({D}, x_TD.scalar_type()),
                     inv = DeviceBuffer::poisoned({T}, at::kFloat),
                     partial = DeviceBuffer::poisoned({kNormPartials, D}, at::kFloat);
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
  for (const at::ScalarType type : kKernelTypes) {
    for (const auto& [T, D, shift] : cases()) {
      SCOPED_TRACE(fmt::format("{} x {} {} shift {}", T, D, c10::toString(type), shift));
      at::manual_seed(static_cast<uint64_t>(D));
      const at::Tensor x = at::randn({T, D}).to(type), w = (1 + 0.1 * at::randn({D})).to(type),
                       dy = at::randn({T, D}).to(type);
      const at::Tensor x64 = x.to(at::kDouble).requires_grad_(true),
                       w64 = w.to(at::kDouble).requires_grad_(true);
      const at::Tensor y64 = rms_norm_ref(x64, w64, 1e-5);
      (y64 * dy.to(at::kDouble)).sum().backward();
      const Result got = run(x, w, dy, 1e-5F, shift);
      const bool wide = type == at::kFloat;
      const double per_row = wide ? 1e-5 : 2e-2,
                   summed = wide ? 2e-4 : 5e-2 * std::sqrt(static_cast<double>(T) + 1);
      EXPECT_TRUE(tensor_near(got.y, y64.detach(), {.abs = per_row, .rel = per_row}));
      EXPECT_TRUE(tensor_near(got.dx, x64.grad(), {.abs = per_row, .rel = per_row}));
      EXPECT_TRUE(tensor_near(got.dw, w64.grad(), {.abs = summed, .rel = wide ? 1e-3 : 2e-2}));
      const DeviceBuffer dy_in(dy), x_in(x), w_in(w), inv(inv_rms(x, 1e-5)),
          dx = DeviceBuffer::poisoned({T, D}, type);
      EXPECT_EQ(rms_norm_backward({dy_in.data(), x_in.data(), w_in.data(), inv.as<float>(),
                                   dx.data(), nullptr, nullptr, T, D, kernel_type(type)},
                                  nullptr),
                cudaSuccess);
      EXPECT_TRUE(tensor_near(dx.tensor(), x64.grad(), {.abs = per_row, .rel = per_row}))
          << "a frozen weight";
      const Result again = run(x, w, dy, 1e-5F, shift);
      EXPECT_TRUE(got.y.equal(again.y) && got.dx.equal(again.dx) && got.dw.equal(again.dw));
    }
  }
}

}  // namespace
}  // namespace euromodal
