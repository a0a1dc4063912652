// layer_norm_test.cpp — the layer norm kernels against layer_norm_ref in double: all dtypes, odd
// widths, more rows than partial sums, rows that no block can keep, unaligned memory, each gradient
// alone, no row, and twice the same bits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/layer_norm/layer_norm_kernel.h"
#include "backbone/kernels/layer_norm/layer_norm_ref.h"
#include "tests/support/kernel_buffers.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::kernel_type;
using testing_support::kKernelTypes;
using testing_support::rounding;
using testing_support::ShiftedBuffer;
using testing_support::tensor_equal;
using testing_support::tensor_near;

struct Given {
  at::Tensor x_TD, w_D, b_D, dy_TD;
};

struct Wanted {
  bool dx = true, dweight = true, dbias = true;
};

struct Result {
  at::Tensor y, dx, dw, db;
};

Result run(const Given& g, int64_t shift, const Wanted& wanted = {}) {
  const int64_t T = g.x_TD.size(0), D = g.x_TD.size(1);
  const at::ScalarType type = g.x_TD.scalar_type();
  const ShiftedBuffer x(g.x_TD, shift), w(g.w_D, shift), b(g.b_D, shift), dy(g.dy_TD, shift),
      y = ShiftedBuffer::poisoned({T, D}, type, shift),
      dx = ShiftedBuffer::poisoned({T, D}, type, shift);
  const DeviceBuffer dw = DeviceBuffer::poisoned({D}, type), db = DeviceBuffer::poisoned({D}, type),
                     mean = DeviceBuffer::poisoned({T}, at::kFloat),
                     inv = DeviceBuffer::poisoned({T}, at::kFloat),
                     weight_partial = DeviceBuffer::poisoned({kNormPartials, D}, at::kFloat),
                     bias_partial = DeviceBuffer::poisoned({kNormPartials, D}, at::kFloat);
  EXPECT_EQ(layer_norm_forward({x.data(), w.data(), b.data(), y.data(), mean.as<float>(),
                                inv.as<float>(), T, D, 1e-5F, kernel_type(type)},
                               nullptr),
            cudaSuccess);
  EXPECT_EQ(layer_norm_backward(
                {dy.data(), x.data(), w.data(), mean.as<float>(), inv.as<float>(),
                 wanted.dx ? dx.data() : nullptr, wanted.dweight ? dw.data() : nullptr,
                 wanted.dbias ? db.data() : nullptr,
                 wanted.dweight ? weight_partial.as<float>() : nullptr,
                 wanted.dbias ? bias_partial.as<float>() : nullptr, T, D, kernel_type(type)},
                nullptr),
            cudaSuccess);
  return {y.tensor(), dx.tensor(), dw.tensor(), db.tensor()};
}

Given given(int64_t T, int64_t D, at::ScalarType type) {
  at::manual_seed(static_cast<uint64_t>(T * 31 + D));
  return {(at::randn({T, D}) + 0.5).to(type), (1 + 0.1 * at::randn({D})).to(type),
          at::randn({D}).to(type), at::randn({T, D}).to(type)};
}

TEST(LayerNormKernelTest, MatchesTheReference) {
  EM_NEEDS_GPU();
  std::vector<std::array<int64_t, 2>> sizes{{1, 1},    {3, 7},    {5, 256},   {70, 300}, {2, 1031},
                                            {300, 24}, {3, 1152}, {2, 12288}, {2, 12296}};
  if (!testing_support::small_sizes()) sizes.insert(sizes.end(), {{8192, 1152}, {1500, 1281}});
  for (const at::ScalarType type : kKernelTypes) {
    for (const auto& [T, D] : sizes) {
      const Given g = given(T, D, type);
      const at::Tensor x64 = g.x_TD.to(at::kDouble).requires_grad_(true),
                       w64 = g.w_D.to(at::kDouble).requires_grad_(true),
                       b64 = g.b_D.to(at::kDouble).requires_grad_(true);
      const at::Tensor y64 = layer_norm_ref(x64, w64, b64, 1e-5);
      y64.backward(g.dy_TD.to(at::kDouble));
      const double rel = rounding(type) + 2e-6, sums = std::sqrt(static_cast<double>(T));
      for (const int64_t shift : {0, 1}) {
        SCOPED_TRACE(fmt::format("{} x {} {} shift {}", T, D, c10::toString(type), shift));
        const Result got = run(g, shift);
        EXPECT_TRUE(tensor_near(got.y, y64.detach(), {.abs = 2e-6, .rel = rel}));
        EXPECT_TRUE(tensor_near(got.dx, x64.grad(), {.abs = 4e-6, .rel = rel}));
        EXPECT_TRUE(tensor_near(got.dw, w64.grad(), {.abs = 4e-6 * sums, .rel = rel}));
        EXPECT_TRUE(tensor_near(got.db, b64.grad(), {.abs = 2e-6 * sums, .rel = rel}));
        const Result again = run(g, shift);
        EXPECT_TRUE(tensor_equal(again.y, got.y) && tensor_equal(again.dx, got.dx) &&
                    tensor_equal(again.dw, got.dw) && tensor_equal(again.db, got.db));
      }
    }
  }
}

TEST(LayerNormKernelTest, EachGradientAlone) {
  EM_NEEDS_GPU();
  for (const int64_t D : {96, 97}) {
    const Given g = given(9, D, at::kFloat);
    const Result all = run(g, 0);
    EXPECT_TRUE(tensor_near(run(g, 0, {true, false, false}).dx, all.dx, {1e-6, 1e-6}));
    EXPECT_TRUE(tensor_equal(run(g, 0, {false, true, false}).dw, all.dw));
    EXPECT_TRUE(tensor_equal(run(g, 0, {false, false, true}).db, all.db));
    EXPECT_TRUE(run(g, 0, {false, true, true}).dx.isnan().all().item<bool>()) << "written to";
  }
}

// mean(x) far from 0: the variance is taken from the centred numbers.
TEST(LayerNormKernelTest, RowsFarFromZero) {
  EM_NEEDS_GPU();
  Given g = given(4, 768, at::kFloat);
  g.x_TD = g.x_TD + 3000;
  const at::Tensor want =
      layer_norm_ref(g.x_TD.to(at::kDouble), g.w_D.to(at::kDouble), g.b_D.to(at::kDouble), 1e-5);
  EXPECT_TRUE(tensor_near(run(g, 0).y, want, {2e-3, 2e-3}));
}

TEST(LayerNormKernelTest, NoRowsAndWhatItRefuses) {
  EM_NEEDS_GPU();
  const Result none = run(given(0, 24, at::kFloat), 0);
  EXPECT_TRUE(tensor_equal(none.dw, at::zeros({24})) && tensor_equal(none.db, at::zeros({24})));
  LayerNormForwardArgs forward{};
  LayerNormBackwardArgs backward{};
  forward.type = backward.type = DType::kInt8;
  EXPECT_EQ(layer_norm_forward(forward, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(layer_norm_backward(backward, nullptr), cudaErrorInvalidValue);
  forward.type = backward.type = DType::kF32;
  forward.rows = backward.rows = int64_t{1} << 31;
  forward.width = backward.width = 8;
  EXPECT_EQ(layer_norm_forward(forward, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(layer_norm_backward(backward, nullptr), cudaErrorInvalidValue);
}

// Rows whose first element lies beyond 2^31.
TEST(LayerNormKernelTest, IndicesBeyond31Bits) {
  EM_NEEDS_GPU();
  if (!testing_support::large_sizes())
    GTEST_SKIP() << "needs 9 GB; runs on a GPU, or with EUROMODAL_LARGE_TESTS=1";
  const int64_t D = 8192, T = (int64_t{1} << 31) / D + 2;
  const Given few = given(2, D, at::kBFloat16);
  const DeviceBuffer x(at::cat({at::zeros({T - 2, D}, at::kBFloat16), few.x_TD})), w(few.w_D),
      b(few.b_D), y = DeviceBuffer::poisoned({T, D}, at::kBFloat16),
                  mean = DeviceBuffer::poisoned({T}, at::kFloat),
                  inv = DeviceBuffer::poisoned({T}, at::kFloat);
  EXPECT_EQ(layer_norm_forward({x.data(), w.data(), b.data(), y.data(), mean.as<float>(),
                                inv.as<float>(), T, D, 1e-5F, DType::kBf16},
                               nullptr),
            cudaSuccess);
  EXPECT_TRUE(tensor_equal(y.tensor().slice(0, T - 2), run(few, 0).y));
}

}  // namespace
}  // namespace euromodal
