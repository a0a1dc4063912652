// adamw_test.cpp — the AdamW kernel against the formula on the CPU, bit for bit: dtypes of gradient
// and values, sizes around a block's share, unaligned memory, the clip factor and the flag in
// device memory; sums of squares against double, and what they do with what is not finite.
#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/adamw/adamw_kernel.h"
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

struct State {
  at::Tensor p, m, v, values;
};

// The CPU's loop (training/optimizer.cpp), one number at a time. volatile: no product is fused into
// a sum, whatever the compiler's flags.
float product(float a, float b) {
  volatile float out = a * b;
  return out;
}

State adamw_by_hand(const State& before, const at::Tensor& gradient, const AdamWArgs& a,
                    float factor) {
  State out{before.p.clone(), before.m.clone(), before.v.clone(), {}};
  const at::Tensor wide = gradient.to(at::kFloat).contiguous();
  const float* g_in = wide.const_data_ptr<float>();
  auto *p = out.p.mutable_data_ptr<float>(), *m = out.m.mutable_data_ptr<float>(),
       *v = out.v.mutable_data_ptr<float>();
  for (int64_t i = 0; i < wide.numel(); ++i) {
    const float g = product(g_in[i], factor);
    m[i] += product(1.0F - a.beta1, g - m[i]);
    v[i] = product(a.beta2, v[i]) + product(product(1.0F - a.beta2, g), g);
    p[i] = product(p[i], a.decay) -
           product(a.step_size, m[i]) / (std::sqrt(v[i]) / a.root_correction + a.eps);
  }
  return out;
}

AdamWArgs options() {
  AdamWArgs a;
  a.scale = 0.37F;
  a.beta1 = 0.9F;
  a.beta2 = 0.95F;
  a.decay = 1.0F - 3e-4F * 0.1F;
  a.step_size = 3e-4F / (1.0F - 0.9F * 0.9F);
  a.root_correction = std::sqrt(1.0F - 0.95F * 0.95F);
  a.eps = 1e-8F;
  return a;
}

struct Device {  // what the launch reads besides the arrays
  const float* clip = nullptr;
  const int32_t* apply = nullptr;
};

State run(const State& before, const at::Tensor& gradient, at::ScalarType values_type,
          int64_t shift, const Device& device = {}) {
  const int64_t count = gradient.numel();
  const ShiftedBuffer p(before.p, shift), m(before.m, shift), v(before.v, shift),
      g(gradient, shift), values = ShiftedBuffer::poisoned({count}, values_type, shift);
  AdamWArgs a = options();
  a.master = static_cast<float*>(p.data());
  a.gradient = g.data();
  a.exp_avg = static_cast<float*>(m.data());
  a.exp_avg_sq = static_cast<float*>(v.data());
  a.values = values.data();
  a.count = count;
  a.clip = device.clip;
  a.apply = device.apply;
  a.gradient_type = kernel_type(gradient.scalar_type());
  a.values_type = kernel_type(values_type);
  EXPECT_EQ(adamw_update(a, nullptr), cudaSuccess);
  return {p.tensor(), m.tensor(), v.tensor(), values.tensor()};
}

State drawn(int64_t count) {
  at::manual_seed(static_cast<uint64_t>(count));
  return {at::randn({count}), at::randn({count}) * 0.01, at::rand({count}) * 1e-4, {}};
}

TEST(AdamWKernelTest, GivesTheBitsOfTheCpu) {
  EM_NEEDS_GPU();
  for (const int64_t count : {1, 3, 4, 1023, 1024, 1029, 5000}) {
    const State before = drawn(count);
    for (const at::ScalarType gradient_type : kKernelTypes) {
      const at::Tensor gradient = (at::randn({count}) * 0.1).to(gradient_type);
      for (const at::ScalarType values_type : kKernelTypes) {
        for (const int64_t shift : {0, 1}) {
          SCOPED_TRACE(fmt::format("{} gradient {} values {} shift {}", count,
                                   c10::toString(gradient_type), c10::toString(values_type),
                                   shift));
          const State want = adamw_by_hand(before, gradient, options(), options().scale),
                      got = run(before, gradient, values_type, shift);
          EXPECT_TRUE(tensor_equal(got.m, want.m) && tensor_equal(got.v, want.v));
          EXPECT_TRUE(tensor_equal(got.p, want.p));
          EXPECT_TRUE(tensor_equal(got.values, want.p.to(values_type)));
        }
      }
    }
  }
}

TEST(AdamWKernelTest, ClipFactorAndFlagComeFromTheDevice) {
  EM_NEEDS_GPU();
  const State before = drawn(300);
  const at::Tensor gradient = at::randn({300});
  const DeviceBuffer clip(at::full({1}, 0.25F)), yes(at::ones({1}, at::kInt)),
      no(at::zeros({1}, at::kInt));
  const State got = run(before, gradient, at::kBFloat16, 0, {clip.as<float>(), yes.as<int32_t>()});
  EXPECT_TRUE(
      tensor_equal(got.p, adamw_by_hand(before, gradient, options(), options().scale * 0.25F).p));
  const State kept = run(before, gradient, at::kBFloat16, 0, {clip.as<float>(), no.as<int32_t>()});
  EXPECT_TRUE(tensor_equal(kept.p, before.p) && tensor_equal(kept.m, before.m) &&
              tensor_equal(kept.v, before.v));
}

TEST(AdamWKernelTest, NothingAndWhatItRefuses) {
  EM_NEEDS_GPU();
  AdamWArgs a = options();
  EXPECT_EQ(adamw_update(a, nullptr), cudaSuccess);
  a.count = -1;
  EXPECT_EQ(adamw_update(a, nullptr), cudaErrorInvalidValue);
  a.count = 1;
  a.gradient_type = DType::kInt8;
  EXPECT_EQ(adamw_update(a, nullptr), cudaErrorInvalidValue);
}

at::Tensor squares_of(const std::vector<at::Tensor>& arrays, int64_t shift) {
  const auto count = static_cast<int64_t>(arrays.size());
  const DeviceBuffer partial = DeviceBuffer::poisoned({count, kSquareParts}, at::kDouble),
                     square = DeviceBuffer::poisoned({count}, at::kDouble);
  for (int64_t b = 0; b < count; ++b) {
    const at::Tensor& array = arrays[static_cast<size_t>(b)];
    const ShiftedBuffer x(array, shift);
    EXPECT_EQ(square_sums({.x = x.data(),
                           .count = array.numel(),
                           .partial = partial.as<double>() + b * kSquareParts,
                           .type = kernel_type(array.scalar_type())},
                          nullptr),
              cudaSuccess);
    (void)x.tensor();  // waits: x is freed
  }
  EXPECT_EQ(square_totals({partial.as<double>(), count, square.as<double>()}, nullptr),
            cudaSuccess);
  return square.tensor();
}

TEST(SquareSumsTest, MatchDouble) {
  EM_NEEDS_GPU();
  for (const at::ScalarType type : kKernelTypes) {
    const std::vector<at::Tensor> arrays{at::randn({1}).to(type), at::randn({7}).to(type),
                                         at::randn({5003}).to(type), at::empty({0}, type)};
    for (const int64_t shift : {0, 1}) {
      const at::Tensor got = squares_of(arrays, shift);
      for (size_t b = 0; b < arrays.size(); ++b) {
        const double want = arrays[b].to(at::kDouble).square().sum().item<double>();
        EXPECT_NEAR(got[static_cast<int64_t>(b)].item<double>(), want, 1e-12 * (1 + want));
      }
      EXPECT_TRUE(tensor_equal(squares_of(arrays, shift), got)) << "twice the same bits";
    }
  }
}

TEST(SquareSumsTest, WhatIsNotFiniteStaysSo) {
  EM_NEEDS_GPU();
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    at::Tensor x = at::ones({3000});
    x[2999].fill_(bad);
    const at::Tensor got = squares_of({at::ones({3000}), x}, 0);
    EXPECT_EQ(got[0].item<double>(), 3000.0);
    EXPECT_FALSE(std::isfinite(got[1].item<double>()));
  }
  EXPECT_TRUE(std::isfinite(squares_of({at::full({100}, 3e38F)}, 0).item<double>()))
      << "squares are summed in double";
  EXPECT_EQ(square_totals({}, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace euromodal
