// skinny_linear_test.cpp — the linear of decoding in every weight form against a product in double;
// epilogues; a row's bits whatever M is; the quantisers bit for bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/rms_norm/rms_norm_ref.h"
#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"
#include "backbone/kernels/skinny_linear/skinny_linear_ref.h"
#include "tests/support/device_buffer.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::small_sizes;
using testing_support::tensor_near;

struct Case {
  int64_t M, N, K;
  bool bias = false, residual = false, norm = false, swiglu = false, wide = false, zero = false;
};

at::Tensor bf16(const at::Tensor& x) { return x.to(at::kBFloat16); }

struct Problem {
  Case c;
  at::Tensor x_MK, bias_N, residual, norm_K;
  SkinnyWeight weight;
  at::ScalarType form;

  Problem(const Case& given, at::ScalarType type) : c(given), form(type) {
    at::manual_seed(static_cast<uint64_t>(c.M * 1000003 + c.N * 1009 + c.K));
    x_MK = bf16(at::randn({c.M, c.K}));
    const at::Tensor w = bf16(at::randn({c.N, c.K}) / std::sqrt(static_cast<double>(c.K)));
    weight = type == at::kBFloat16 ? SkinnyWeight{w, {}, {}} : quantize_rows_ref(w, type);
    if (c.zero) weight.zero = bf16(at::randint(0, 16, weight.scale.sizes()).to(at::kFloat));
    if (c.bias) bias_N = bf16(at::randn({c.N}));
    if (c.residual) residual = bf16(at::randn({c.M, outputs()}));
    if (c.norm) norm_K = bf16(1 + 0.1 * at::randn({c.K}));
  }
  int64_t outputs() const { return c.swiglu ? c.N / 2 : c.N; }

  at::Tensor want() const {  // f64
    const at::Tensor x = norm_K.defined() ? rms_norm_ref(x_MK, norm_K, 1e-5) : x_MK;
    at::Tensor y = at::matmul(x.to(at::kDouble), skinny_weight_numbers(weight).t());
    if (bias_N.defined()) y = y + bias_N.to(at::kDouble);
    if (c.swiglu) {
      const at::Tensor gate = y.narrow(1, 0, c.N / 2), up = y.narrow(1, c.N / 2, c.N / 2);
      y = gate / (1 + (-gate).exp()) * up;
    }
    return residual.defined() ? y + residual.to(at::kDouble) : y;
  }

  at::Tensor run(int64_t rows, bool in_place = false) const {
    const auto of = [](const at::Tensor& t) { return t.defined() ? t : at::zeros({1}, at::kByte); };
    const at::Tensor codes =
        form == at::kFloat8_e4m3fn ? weight.codes.view(at::kByte) : weight.codes;
    const DeviceBuffer x(x_MK.narrow(0, 0, rows)), w(codes), scale(of(weight.scale)),
        zero(of(weight.zero)), bias(of(bias_N)), norm(of(norm_K)),
        res(residual.defined() ? residual.narrow(0, 0, rows) : at::zeros({1}, at::kByte));
    const at::ScalarType out = c.wide ? at::kFloat : at::kBFloat16;
    const DeviceBuffer y = DeviceBuffer::poisoned({rows, outputs()}, out);
    SkinnyLinearArgs args;
    args.x_MK = x.data();
    args.weight_NK = w.data();
    if (weight.scale.defined()) args.scale = scale.data();
    if (weight.zero.defined()) args.zero = zero.data();
    if (bias_N.defined()) args.bias_N = bias.data();
    if (residual.defined()) args.residual_MN = res.data();
    if (norm_K.defined()) args.norm_weight_K = norm.data();
    args.norm_eps = 1e-5F;
    args.y_MN = in_place ? res.data() : y.data();
    args.y_type = c.wide ? DType::kF32 : DType::kBf16;
    args.M = rows;
    args.N = c.N;
    args.K = c.K;
    args.weight_type = form == at::kBFloat16        ? DType::kBf16
                       : form == at::kFloat8_e4m3fn ? DType::kFp8E4M3
                       : form == at::kChar          ? DType::kInt8
                                                    : DType::kInt4;
    args.group = form == at::kByte ? 128 : 0;
    args.epilogue = c.swiglu ? SkinnyEpilogue::kSwiglu : SkinnyEpilogue::kNone;
    args.dependent = rows % 2 == 1;
    EXPECT_EQ(skinny_linear(args, nullptr), cudaSuccess);
    return in_place ? res.tensor() : y.tensor();
  }
};

std::vector<Case> cases() {
  std::vector<Case> out{{1, 1, 128},
                        {1, 17, 256, true},
                        {3, 40, 384, false, true},
                        {4, 64, 128, true, true, true},
                        {5, 33, 256, false, false, true},
                        {8, 48, 640, true, false, false, true},
                        {1, 96, 256, false, false, true, true},
                        {2, 34, 128, true, true, true, true},
                        {9, 70, 256, true},
                        {16, 130, 384, false, true, true},
                        {13, 64, 256, true, false, true, true},
                        {16, 20, 128, false, false, false, false, true}};
  if (!small_sizes()) {
    out.push_back({1, 8192, 6144, false, false, true});
    out.push_back({1, 6144, 16384, false, true});
    out.push_back({7, 6144, 16384, false, true});
    out.push_back({16, 6144, 16384, true, true});
    out.push_back({16, 32768, 6144, false, false, true, true});
    out.push_back({2, 128000, 6144, false, false, true, false, true});
  } else {
    out.push_back({16, 16, 8192});  // x does not fit: in chunks
  }
  return out;
}

class SkinnyLinearTest : public testing::TestWithParam<at::ScalarType> {};

TEST_P(SkinnyLinearTest, MatchesTheReference) {
  EM_NEEDS_GPU();
  for (Case c : cases()) {
    if (GetParam() == at::kByte) c.zero = c.M % 2 == 0;
    SCOPED_TRACE(fmt::format("{} x {} x {} bias {} residual {} norm {} swiglu {} f32 {} zero {}",
                             c.M, c.N, c.K, c.bias, c.residual, c.norm, c.swiglu, c.wide, c.zero));
    const Problem p(c, GetParam());
    const at::Tensor got = p.run(c.M), want = p.want();
    EXPECT_TRUE(tensor_near(got, want, {.abs = 0.02, .rel = 0.02}));
    EXPECT_TRUE(got.equal(p.run(c.M))) << "another run";
    EXPECT_TRUE(got.narrow(0, 0, 1).equal(p.run(1))) << "one row alone";
    if (c.residual && !c.wide) {
      EXPECT_TRUE(got.equal(p.run(c.M, /*in_place=*/true)));
    }
  }
}

TEST_P(SkinnyLinearTest, SumsAreAsGoodAsF32) {
  EM_NEEDS_GPU();
  // Whole numbers: every sum is exact, and so is bf16 below 256.
  Case c{4, 32, 512, false, false, false, false, true};
  Problem p(c, GetParam());
  p.x_MK = bf16(at::randint(-1, 2, {4, 512}).to(at::kFloat));
  const at::Tensor code = at::randint(-1, 2, {32, 512}).to(at::kFloat);
  if (GetParam() == at::kBFloat16) {
    p.weight.codes = bf16(code);
  } else if (GetParam() == at::kByte) {
    p.weight = quantize_rows_ref(bf16(code * 7), at::kByte);
  } else {
    p.weight.codes = code.to(GetParam());
    p.weight.scale = at::ones({32});
  }
  p.weight.zero = at::Tensor();
  const double unit = GetParam() == at::kByte ? 7.0 : 1.0;
  EXPECT_TRUE((p.run(4).to(at::kDouble) / unit).equal(bf16(p.want() / unit).to(at::kDouble)) ||
              tensor_near(p.run(4), p.want(), {.abs = 0.0, .rel = 0.004}));
}

TEST_P(SkinnyLinearTest, RefusesWhatItCannotDo) {
  SkinnyLinearArgs args;
  args.M = 17;
  args.N = args.K = 128;
  EXPECT_EQ(skinny_linear(args, nullptr), cudaErrorInvalidValue);
  args.M = 1;
  args.K = 72;
  EXPECT_EQ(skinny_linear(args, nullptr), cudaErrorInvalidValue);
  args.M = 0;
  EXPECT_EQ(skinny_linear(args, nullptr), cudaSuccess);
}

INSTANTIATE_TEST_SUITE_P(Forms, SkinnyLinearTest,
                         testing::Values(at::kBFloat16, at::kFloat8_e4m3fn, at::kChar, at::kByte),
                         [](const auto& info) {
                           return info.param == at::kBFloat16        ? "bf16"
                                  : info.param == at::kFloat8_e4m3fn ? "fp8"
                                  : info.param == at::kChar          ? "int8"
                                                                     : "int4";
                         });

TEST(QuantizeRowsTest, CodesAreThoseOfTheReference) {
  EM_NEEDS_GPU();
  for (const at::ScalarType type : {at::kFloat8_e4m3fn, at::kChar, at::kByte}) {
    SCOPED_TRACE(c10::toString(type));
    at::manual_seed(3);
    at::Tensor w = at::randn({small_sizes() ? 5 : 4097, 384}).to(at::kBFloat16);
    w[1].zero_();
    w[2] *= 1e-30;
    const SkinnyWeight want = quantize_rows_ref(w, type);
    const at::Tensor codes = type == at::kFloat8_e4m3fn ? want.codes.view(at::kByte) : want.codes;
    const DeviceBuffer in(w),
        out = DeviceBuffer::poisoned(codes.sizes(), codes.scalar_type()),
        scale = DeviceBuffer::poisoned(want.scale.sizes(), want.scale.scalar_type());
    QuantizeRowsArgs args;
    args.weight_NK = in.data();
    args.codes = out.data();
    args.scale = scale.data();
    args.N = w.size(0);
    args.K = w.size(1);
    args.type = type == at::kByte   ? DType::kInt4
                : type == at::kChar ? DType::kInt8
                                    : DType::kFp8E4M3;
    args.group = 128;
    ASSERT_EQ(quantize_rows(args, nullptr), cudaSuccess);
    EXPECT_TRUE(scale.tensor().equal(want.scale));
    EXPECT_TRUE(out.tensor().equal(codes))
        << (out.tensor() != codes).sum().item<int64_t>() << " codes differ";
  }
}

}  // namespace
}  // namespace euromodal
