// gelu_test.cpp — the GELU kernels against gelu_ref in double: the three forms, all dtypes, sizes
// around a block's share, unaligned memory, in place, none at all, and twice the same bits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/cuda/row_pieces.h"
#include "backbone/kernels/gelu/gelu_kernel.h"
#include "backbone/kernels/gelu/gelu_ref.h"
#include "tests/support/kernel_buffers.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::kernel_type;
using testing_support::kKernelTypes;
using testing_support::rounding;
using testing_support::ShiftedBuffer;
using testing_support::tensor_equal;
using testing_support::tensor_near;

constexpr GeluKind kKinds[] = {GeluKind::kGelu, GeluKind::kGeluTanh, GeluKind::kQuickGelu};

struct Result {
  at::Tensor y, dx;
};

Result run(const at::Tensor& x, const at::Tensor& dy, GeluKind kind, int64_t shift) {
  const ShiftedBuffer xs(x, shift), dys(dy, shift),
      y = ShiftedBuffer::poisoned(x.sizes(), x.scalar_type(), shift),
      dx = ShiftedBuffer::poisoned(x.sizes(), x.scalar_type(), shift);
  GeluArgs args{.x = xs.data(),
                .dy = nullptr,
                .y = y.data(),
                .count = x.numel(),
                .kind = kind,
                .type = kernel_type(x.scalar_type())};
  EXPECT_EQ(gelu_forward(args, nullptr), cudaSuccess);
  args.dy = dys.data();
  args.y = dx.data();
  EXPECT_EQ(gelu_backward(args, nullptr), cudaSuccess);
  return {y.tensor(), dx.tensor()};
}

TEST(GeluKernelTest, MatchesTheReference) {
  EM_NEEDS_GPU();
  for (const at::ScalarType type : kKernelTypes) {
    for (const int64_t count : {1, 7, 8, 257, 2049, 4096, 12301}) {
      for (const GeluKind kind : kKinds) {
        SCOPED_TRACE(fmt::format("{} {} kind {}", count, c10::toString(type), int(kind)));
        at::manual_seed(static_cast<uint64_t>(count));
        const at::Tensor x = (at::randn({count}) * 3).to(type), dy = at::randn({count}).to(type);
        const at::Tensor x64 = x.to(at::kDouble).requires_grad_(true);
        const at::Tensor y64 = gelu_ref(x64, kind);
        y64.backward(dy.to(at::kDouble));
        // Quick GELU rounds three times: the sigmoid of a rounded 1.702 x moves with it, and where
        // it is below f16's normal numbers x multiplies what is lost.
        const bool quick = kind == GeluKind::kQuickGelu;
        const double rel = rounding(type) * (quick ? 12 : 1.5) + 2e-6, abs = quick ? 1e-6 : 2e-7;
        for (const int64_t shift : {0, 1, 3}) {
          const Result got = run(x, dy, kind, shift);
          EXPECT_TRUE(tensor_near(got.y, y64.detach(), {.abs = abs, .rel = rel})) << shift;
          EXPECT_TRUE(tensor_near(got.dx, x64.grad(), {.abs = 3e-6, .rel = 1.5 * rounding(type)}))
              << shift;
          const Result again = run(x, dy, kind, shift);
          EXPECT_TRUE(tensor_equal(again.y, got.y) && tensor_equal(again.dx, got.dx));
        }
      }
    }
  }
}

// Rounded where transformers' three operators round: the same numbers but for the last bit of exp.
TEST(GeluKernelTest, QuickGeluRoundsAsItsThreeOperators) {
  EM_NEEDS_GPU();
  const at::Tensor x = at::linspace(-9, 9, 4001).to(at::kBFloat16);
  const at::Tensor want = gelu_ref(x, GeluKind::kQuickGelu).to(at::kFloat),
                   got = run(x, x, GeluKind::kQuickGelu, 0).y.to(at::kFloat);
  EXPECT_GT((got == want).to(at::kFloat).mean().item<float>(), 0.999F);
}

TEST(GeluKernelTest, FarOffNumbers) {
  EM_NEEDS_GPU();
  const at::Tensor x = at::tensor({-1e30F, -200.0F, -0.0F, 0.0F, 200.0F, 1e4F}, at::kFloat);
  for (const GeluKind kind : kKinds) {
    const Result got = run(x, at::ones_like(x), kind, 0);
    EXPECT_TRUE(tensor_near(got.y, at::relu(x), {.abs = 1e-30, .rel = 1e-6})) << int(kind);
    EXPECT_FLOAT_EQ(got.dx[5].item<float>(), 1.0F) << int(kind);
    EXPECT_FLOAT_EQ(got.dx[1].item<float>(), 0.0F) << int(kind);
  }
}

TEST(GeluKernelTest, InPlaceNothingAndWhatItRefuses) {
  EM_NEEDS_GPU();
  const at::Tensor x = at::randn({1000});
  const at::Tensor want = run(x, x, GeluKind::kGelu, 0).y;
  const ShiftedBuffer both(x, 0);
  GeluArgs args{.x = both.data(),
                .dy = nullptr,
                .y = both.data(),
                .count = 1000,
                .kind = GeluKind::kGelu,
                .type = DType::kF32};
  EXPECT_EQ(gelu_forward(args, nullptr), cudaSuccess);
  EXPECT_TRUE(tensor_equal(both.tensor(), want));
  args.count = 0;
  EXPECT_EQ(gelu_forward(args, nullptr), cudaSuccess);
  args.count = -1;
  EXPECT_EQ(gelu_forward(args, nullptr), cudaErrorInvalidValue);
  args.count = 8;
  args.type = DType::kInt8;
  EXPECT_EQ(gelu_forward(args, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(gelu_backward(args, nullptr), cudaErrorInvalidValue);
}

// The pieces of a tensor of 2^40 elements: every block has its own, in order, without an overflow.
TEST(RowPiecesTest, IndicesBeyond31Bits) {
  const RowPieces one{1, int64_t{1} << 40, 4096};
  EXPECT_EQ(one.count(), int64_t{1} << 28);
  EXPECT_EQ(one.begin((int64_t{1} << 28) - 1), (int64_t{1} << 40) - 4096);
  EXPECT_EQ(one.end((int64_t{1} << 28) - 1), int64_t{1} << 40);
  const RowPieces many{3'000'000'000, 5000, 4096};
  EXPECT_EQ(many.count(), 6'000'000'000);
  EXPECT_EQ(many.row(5'999'999'999), 2'999'999'999);
  EXPECT_EQ(many.begin(5'999'999'999), 4096);
  EXPECT_EQ(many.end(5'999'999'999), 5000);
  EXPECT_EQ(many.row(5'999'999'998), 2'999'999'999);
  EXPECT_EQ(many.end(5'999'999'998), 4096);
}

// The last elements of 2^31 and some, in place, which takes the least memory.
TEST(GeluKernelTest, TensorsOfMoreThan31Bits) {
  EM_NEEDS_GPU();
  if (!testing_support::large_sizes())
    GTEST_SKIP() << "needs 13 GB; runs on a GPU, or with EUROMODAL_LARGE_TESTS=1";
  const int64_t count = (int64_t{1} << 31) + 4099;
  const at::Tensor few = at::randn({4099}).to(at::kBFloat16);
  at::Tensor x = at::zeros({count}, at::kBFloat16);
  x.slice(0, count - 4099).copy_(few);
  const ShiftedBuffer xs(x, 0);
  ASSERT_EQ(gelu_forward({.x = xs.data(),
                          .dy = nullptr,
                          .y = xs.data(),
                          .count = count,
                          .kind = GeluKind::kGelu,
                          .type = kernel_type(at::kBFloat16)},
                         nullptr),
            cudaSuccess);
  EXPECT_TRUE(
      tensor_equal(xs.tensor().slice(0, count - 4099), run(few, few, GeluKind::kGelu, 0).y));
}

}  // namespace
}  // namespace euromodal
