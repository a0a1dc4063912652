// rope_test.cpp — the rotation kernel against rope_ref and mrope_ref: all dtypes, odd head widths,
// heads inside a wider row, unaligned memory, the gradient as the inverse rotation, three positions
// a row, positions outside the table, nothing at all.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/rope/rope_kernel.h"
#include "backbone/kernels/rope/rope_ref.h"
#include "tests/support/kernel_buffers.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::kernel_type;
using testing_support::kKernelTypes;
using testing_support::ShiftedBuffer;
using testing_support::tensor_equal;
using testing_support::tensor_near;

constexpr int64_t kPositions = 50;

RopeTable table_of(int64_t width) {
  return rope_table({.head_dim = width, .max_positions = kPositions}, kPositions, kPositions);
}

struct Place {
  int64_t shift = 0;
  int64_t heads_before = 0;  // x is a part of rows with more heads, as in a fused projection
};

/// positions: [T] or [3, T].
at::Tensor run(const at::Tensor& x_THN, const RopeTable& table, const at::Tensor& positions,
               const MropeSections& sections, bool inverse, const Place& place = {}) {
  const int64_t T = x_THN.size(0), H = x_THN.size(1), N = x_THN.size(2);
  const at::ScalarType type = x_THN.scalar_type();
  const at::Tensor more = at::ones({T, place.heads_before, N}, type);
  const ShiftedBuffer x(at::cat({more, x_THN}, 1), place.shift),
      y = ShiftedBuffer::poisoned({T, H, N}, type, place.shift);
  const DeviceBuffer cos(table.cos_PN), sin(table.sin_PN), position(positions);
  const RopeRotateArgs args{
      .x_THN = static_cast<char*>(x.data()) +
               place.heads_before * N * static_cast<int64_t>(x_THN.element_size()),
      .x_row = (place.heads_before + H) * N,
      .x_head = N,
      .y_THN = y.data(),
      .y_row = H * N,
      .y_head = N,
      .cos_PN = cos.as<float>(),
      .sin_PN = sin.as<float>(),
      .P = table.cos_PN.size(0),
      .position_T = position.as<int64_t>(),
      .mrope = positions.dim() == 2,
      .sections = sections,
      .T = T,
      .H = H,
      .N = N,
      .inverse = inverse,
      .type = kernel_type(type)};
  EXPECT_EQ(rope_rotate(args, nullptr), cudaSuccess);
  return y.tensor();
}

/// The same bits, but for products and sums that the CPU fuses in f32.
void expect_same(const at::Tensor& got, const at::Tensor& want) {
  if (got.scalar_type() == at::kFloat)
    EXPECT_TRUE(tensor_near(got, want, {1e-6, 1e-6}));
  else
    EXPECT_TRUE(tensor_equal(got, want));
}

TEST(RopeKernelTest, MatchesTheReference) {
  EM_NEEDS_GPU();
  for (const at::ScalarType type : kKernelTypes) {
    for (const int64_t N : {2, 6, 16, 72, 80, 128, 514}) {
      for (const int64_t H : {1, 5, 48}) {
        at::manual_seed(static_cast<uint64_t>(N + H));
        const int64_t T = 7;
        const RopeTable table = table_of(N);
        const at::Tensor x = at::randn({T, H, N}).to(type).requires_grad_(true),
                         dy = at::randn({T, H, N}).to(type),
                         positions = at::randint(0, kPositions, {T}, at::kLong);
        const at::Tensor want = rope_ref(x, table, positions);
        want.backward(dy);
        for (const Place& place : {Place{}, Place{.shift = 1}, Place{.heads_before = 3}}) {
          SCOPED_TRACE(fmt::format("{} heads of {} {} shift {} behind {}", H, N,
                                   c10::toString(type), place.shift, place.heads_before));
          expect_same(run(x.detach(), table, positions, {}, false, place), want.detach());
          expect_same(run(dy, table, positions, {}, true, place), x.grad());
        }
      }
    }
  }
}

TEST(RopeKernelTest, ThreePositionsARow) {
  EM_NEEDS_GPU();
  const int64_t T = 9, H = 3, N = 64;
  const RopeTable table = table_of(N);
  const at::Tensor positions = at::randint(0, kPositions, {3, T}, at::kLong);
  for (const at::ScalarType type : kKernelTypes) {
    for (const MropeSections& sections :
         {MropeSections{{8, 12, 12}, false}, MropeSections{{12, 10, 10}, true},
          MropeSections{{32, 0, 0}, false}}) {
      const at::Tensor x = at::randn({T, H, N}).to(type).requires_grad_(true),
                       dy = at::randn({T, H, N}).to(type);
      const at::Tensor want = mrope_ref(x, table, positions, sections);
      want.backward(dy);
      expect_same(run(x.detach(), table, positions, sections, false), want.detach());
      expect_same(run(dy, table, positions, sections, true), x.grad());
    }
  }
}

TEST(RopeKernelTest, PositionsOutsideTheTableGiveNan) {
  EM_NEEDS_GPU();
  const RopeTable table = table_of(16);
  const at::Tensor positions = at::tensor({0, -1, static_cast<int>(kPositions), 49}, at::kLong);
  const at::Tensor y = run(at::randn({4, 2, 16}), table, positions, {}, false);
  EXPECT_TRUE(
      tensor_equal(y.isnan().all(2).all(1).to(at::kLong), at::tensor({0, 1, 1, 0}, at::kLong)));
  EXPECT_FALSE(y[3].isnan().any().item<bool>());
}

TEST(RopeKernelTest, NothingAndWhatItRefuses) {
  EM_NEEDS_GPU();
  EXPECT_EQ(run(at::randn({0, 2, 16}), table_of(16), at::empty({0}, at::kLong), {}, false).numel(),
            0);
  RopeRotateArgs args;
  args.T = args.H = 1;
  args.N = 7;
  EXPECT_EQ(rope_rotate(args, nullptr), cudaErrorInvalidValue);
  args.N = 4096;
  EXPECT_EQ(rope_rotate(args, nullptr), cudaErrorInvalidValue);
  args.N = 64;
  args.type = DType::kInt8;
  EXPECT_EQ(rope_rotate(args, nullptr), cudaErrorInvalidValue);
  args.type = DType::kF32;
  args.T = int64_t{1} << 31;
  EXPECT_EQ(rope_rotate(args, nullptr), cudaErrorInvalidValue);
}

// A row behind 2^31 elements: on a GPU.
TEST(RopeKernelTest, IndicesBeyond31Bits) {
  EM_NEEDS_GPU();
  if (!testing_support::large_sizes())
    GTEST_SKIP() << "needs 9 GB; runs on a GPU, or with EUROMODAL_LARGE_TESTS=1";
  const int64_t H = 64, N = 128, T = (int64_t{1} << 31) / (H * N) + 2;
  const at::Tensor few = at::randn({2, H, N}).to(at::kBFloat16),
                   x = at::cat({at::zeros({T - 2, H, N}, at::kBFloat16), few}),
                   positions = at::full({T}, 17, at::kLong);
  const RopeTable table = table_of(N);
  EXPECT_TRUE(tensor_equal(run(x, table, positions, {}, false).slice(0, T - 2),
                           rope_ref(few, table, positions.narrow(0, 0, 2))));
}

TEST(MropeAxisTest, EveryFrequencyHasOnePosition) {
  const auto axes = [](const MropeSections& sections, int64_t count) {
    std::vector<int> out;
    for (int64_t i = 0; i < count; ++i) out.push_back(mrope_axis(sections, i));
    return out;
  };
  EXPECT_EQ(axes({{2, 1, 3}, false}, 6), (std::vector<int>{0, 0, 1, 2, 2, 2}));
  EXPECT_EQ(axes({{4, 2, 2}, true}, 8), (std::vector<int>{0, 1, 2, 0, 1, 2, 0, 0}));
}

}  // namespace
}  // namespace euromodal
