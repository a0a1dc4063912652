// swiglu_test.cpp — the SwiGLU kernels against swiglu_ref in double: all dtypes, odd widths, the
// halves of a fused row, unaligned memory, gradients over their inputs, and twice the same bits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/swiglu/swiglu_kernel.h"
#include "backbone/kernels/swiglu/swiglu_ref.h"
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

struct Result {
  at::Tensor y, dgate, dup;
};

struct Place {
  bool fused = false;  // gate and up are halves of a row, and so are their gradients
  int64_t shift = 0;
};

void* behind(void* p, int64_t elements, at::ScalarType type) {
  return static_cast<char*>(p) + elements * static_cast<int64_t>(c10::elementSize(type));
}

Result run(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& dy, const Place& place) {
  const int64_t T = gate.size(0), F = gate.size(1), stride = place.fused ? 2 * F : F;
  const at::ScalarType type = gate.scalar_type();
  // One buffer: fused [T, 2F], else [2, T, F].
  const auto second = [&](void* p) { return behind(p, place.fused ? F : T * F, type); };
  const ShiftedBuffer in(place.fused ? at::cat({gate, up}, 1) : at::stack({gate, up}), place.shift),
      dys(dy, place.shift), y = ShiftedBuffer::poisoned({T, F}, type, place.shift),
                            grads = ShiftedBuffer::poisoned({2 * T * F}, type, place.shift);
  EXPECT_EQ(swiglu_forward({.gate_TF = in.data(),
                            .up_TF = second(in.data()),
                            .y_TF = y.data(),
                            .rows = T,
                            .width = F,
                            .gate_stride = stride,
                            .up_stride = stride,
                            .y_stride = F,
                            .type = kernel_type(type)},
                           nullptr),
            cudaSuccess);
  EXPECT_EQ(swiglu_backward({.dy_TF = dys.data(),
                             .gate_TF = in.data(),
                             .up_TF = second(in.data()),
                             .dgate_TF = grads.data(),
                             .dup_TF = second(grads.data()),
                             .rows = T,
                             .width = F,
                             .dy_stride = F,
                             .gate_stride = stride,
                             .up_stride = stride,
                             .dgate_stride = stride,
                             .dup_stride = stride,
                             .type = kernel_type(type)},
                            nullptr),
            cudaSuccess);
  const at::Tensor both = grads.tensor().view({-1});
  if (place.fused) {
    const at::Tensor rows = both.view({T, 2 * F});
    return {y.tensor(), rows.narrow(1, 0, F), rows.narrow(1, F, F)};
  }
  return {y.tensor(), both.narrow(0, 0, T * F).view({T, F}),
          both.narrow(0, T * F, T * F).view({T, F})};
}

TEST(SwigluKernelTest, MatchesTheReference) {
  EM_NEEDS_GPU();
  std::vector<std::array<int64_t, 2>> sizes{{1, 1}, {3, 7}, {5, 64}, {2, 4104}, {33, 136}, {0, 8}};
  if (!testing_support::small_sizes()) sizes.insert(sizes.end(), {{4096, 16384}, {1025, 5633}});
  for (const at::ScalarType type : kKernelTypes) {
    for (const auto& [T, F] : sizes) {
      at::manual_seed(static_cast<uint64_t>(T * 7 + F));
      const at::Tensor gate = (at::randn({T, F}) * 3).to(type), up = at::randn({T, F}).to(type),
                       dy = at::randn({T, F}).to(type);
      const at::Tensor gate64 = gate.to(at::kDouble).requires_grad_(true),
                       up64 = up.to(at::kDouble).requires_grad_(true);
      const at::Tensor y64 = swiglu_ref(gate64, up64);
      y64.backward(dy.to(at::kDouble));
      const double once = 1.2 * rounding(type) + 2e-6;
      for (const Place& place :
           {Place{}, Place{.fused = true}, Place{.shift = 1}, Place{.fused = true, .shift = 3}}) {
        SCOPED_TRACE(fmt::format("{} x {} {} fused {} shift {}", T, F, c10::toString(type),
                                 place.fused, place.shift));
        const Result got = run(gate, up, dy, place);
        EXPECT_TRUE(tensor_near(got.y, y64.detach(), {.abs = 1e-7, .rel = 2 * once}));
        EXPECT_TRUE(tensor_near(got.dgate, gate64.grad(), {.abs = 2e-6, .rel = once}));
        EXPECT_TRUE(tensor_near(got.dup, up64.grad(), {.abs = 1e-7, .rel = once}));
        const Result again = run(gate, up, dy, place);
        EXPECT_TRUE(tensor_equal(again.y, got.y) && tensor_equal(again.dgate, got.dgate) &&
                    tensor_equal(again.dup, got.dup));
      }
    }
  }
}

// silu is rounded before the product, as the CPU's and transformers'.
TEST(SwigluKernelTest, RoundsAsItsTwoOperators) {
  EM_NEEDS_GPU();
  const at::Tensor gate = at::linspace(-9, 9, 4000).to(at::kBFloat16).view({4, 1000}),
                   up = at::linspace(-3, 3, 4000).to(at::kBFloat16).view({4, 1000});
  const at::Tensor want = swiglu_ref(gate, up).to(at::kFloat),
                   got = run(gate, up, up, {}).y.to(at::kFloat);
  EXPECT_GT((got == want).to(at::kFloat).mean().item<float>(), 0.999F);
}

TEST(SwigluKernelTest, GradientsOverTheirInputs) {
  EM_NEEDS_GPU();
  const at::Tensor gate = at::randn({5, 96}), up = at::randn({5, 96}), dy = at::randn({5, 96});
  const Result want = run(gate, up, dy, {});
  const ShiftedBuffer gates(gate, 0), ups(up, 0), dys(dy, 0);
  EXPECT_EQ(swiglu_backward({dys.data(), gates.data(), ups.data(), gates.data(), ups.data(), 5, 96,
                             96, 96, 96, 96, 96, DType::kF32},
                            nullptr),
            cudaSuccess);
  EXPECT_TRUE(tensor_equal(gates.tensor(), want.dgate) && tensor_equal(ups.tensor(), want.dup));
}

TEST(SwigluKernelTest, SizesAndTypesThatItRefuses) {
  EM_NEEDS_GPU();
  SwigluForwardArgs args{};
  args.type = DType::kF32;
  EXPECT_EQ(swiglu_forward(args, nullptr), cudaSuccess);
  args.rows = -1;
  EXPECT_EQ(swiglu_forward(args, nullptr), cudaErrorInvalidValue);
  args.rows = args.width = 1;
  args.type = DType::kU8;
  EXPECT_EQ(swiglu_forward(args, nullptr), cudaErrorInvalidValue);
  args.type = DType::kF32;  // more blocks than a grid has
  args.rows = int64_t{1} << 32;
  args.gate_stride = 8;
  EXPECT_EQ(swiglu_forward(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace euromodal
