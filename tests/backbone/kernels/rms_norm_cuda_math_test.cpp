// rms_norm_cuda_math_test.cpp — the arithmetic of the CUDA kernels, run thread by thread on the
// host (a block of 256 threads a row, sums in the order of the kernel's tree), against the operator
// itself: odd widths, one row, fp32.
#include <cmath>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/rms_norm/rms_norm.h"
#include "backbone/kernels/rms_norm/rms_norm_math.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

// block_sum of the kernel: a butterfly inside each warp, then the warps in order.
float emulated_block_sum(std::vector<float> lanes) {
  float total = 0.0F;
  for (int w = 0; w < kRmsNormThreads / 32; ++w) {
    for (int offset = 16; offset > 0; offset >>= 1) {
      const std::vector<float> before(lanes.begin() + w * 32, lanes.begin() + w * 32 + 32);
      for (int l = 0; l < 32; ++l)
        lanes[static_cast<size_t>(w * 32 + l)] =
            before[static_cast<size_t>(l)] + before[static_cast<size_t>(l ^ offset)];
    }
    total += lanes[static_cast<size_t>(w * 32)];
  }
  return total;
}

template <typename F>
float emulated_row_sum(F share) {
  std::vector<float> lanes(kRmsNormThreads);
  for (int t = 0; t < kRmsNormThreads; ++t) lanes[static_cast<size_t>(t)] = share(t);
  return emulated_block_sum(lanes);
}

TEST(RmsNormCudaMathTest, ForwardAndBackwardMatchTheOperator) {
  for (const auto& [T, D] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 7}, {5, 256}, {70, 300}, {2, 1031}}) {
    at::manual_seed(static_cast<uint64_t>(D));
    const double eps = 1e-5;
    at::Tensor x = at::randn({T, D}), w = 1 + 0.1 * at::randn({D});
    const at::Tensor dy = at::randn({T, D});
    x.requires_grad_(true);
    w.requires_grad_(true);
    const at::Tensor want = rms_norm(x, w, eps, Segments::one(T));
    (want * dy).sum().backward();

    const at::Tensor xc = x.detach(), wc = w.detach();
    at::Tensor y = at::empty({T, D}), dx = at::empty({T, D}), dw = at::empty({D});
    std::vector<float> inv(static_cast<size_t>(T));
    for (int64_t t = 0; t < T; ++t) {
      const float* row = xc.const_data_ptr<float>() + t * D;
      const float* grad = dy.const_data_ptr<float>() + t * D;
      const float* weight = wc.const_data_ptr<float>();
      const float squares =
          emulated_row_sum([&](int i) { return rms_norm_squares(row, D, i, kRmsNormThreads); });
      const float scale =
          1.0F / std::sqrt(squares / static_cast<float>(D) + static_cast<float>(eps));
      inv[static_cast<size_t>(t)] = scale;
      const float dot = emulated_row_sum(
          [&](int i) { return rms_norm_dot(grad, row, weight, D, i, kRmsNormThreads); });
      for (int i = 0; i < kRmsNormThreads; ++i) {
        rms_norm_scale(row, weight, y.mutable_data_ptr<float>() + t * D, scale, D, i,
                       kRmsNormThreads);
        rms_norm_grad(grad, row, weight, dx.mutable_data_ptr<float>() + t * D, scale, dot, D, i,
                      kRmsNormThreads);
      }
    }
    for (int64_t d = 0; d < D;
         ++d) {  // 64 partial sums, then one: as partial_kernel and reduce_kernel
      float sum = 0.0F;
      for (int64_t p = 0; p < 64; ++p)
        sum += rms_norm_weight_grad(dy.const_data_ptr<float>(), xc.const_data_ptr<float>(),
                                    inv.data(), T, D, d, p, 64);
      dw[d] = sum;
    }
    EXPECT_TRUE(testing_support::tensor_near(y, want.detach())) << T << " x " << D;
    EXPECT_TRUE(testing_support::tensor_near(dx, x.grad(), {.abs = 1e-5, .rel = 1e-3}))
        << T << " x " << D;
    EXPECT_TRUE(testing_support::tensor_near(dw, w.grad(), {.abs = 1e-4, .rel = 1e-3}))
        << T << " x " << D;
  }
}

}  // namespace
}  // namespace euromodal
