// skinny_linear_test.cpp — the linear of decoding in every weight form against a product in double,
// and bit for bit against sums in the stated order; epilogues; a row's bits whatever M is; the
// quantisers and the layout bit for bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#ifdef EM_EMULATED
#include "backbone/kernels/cuda/emulation.h"
#endif
#include "backbone/kernels/rms_norm/rms_norm_ref.h"
#include "backbone/kernels/skinny_linear/skinny_layout.h"
#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"
#include "backbone/kernels/skinny_linear/skinny_linear_ref.h"
#include "backbone/kernels/skinny_linear/widen_rows_kernel.h"
#include "tests/support/device_buffer.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::small_sizes;
using testing_support::tensor_near;

struct Case {
  int64_t M, N, K;
  bool bias = false, residual = false, norm = false, swiglu = false, wide = false;
};

const std::vector<SkinnyForm>& forms() {
  static const std::vector<SkinnyForm> all = [] {
    std::vector<SkinnyForm> out;
    for (const char* word : {"bfloat16", "float8", "int8", "int8-asym", "int8-g32", "int8-g32-asym",
                             "int4", "int4-asym", "int4-g32", "int4-g32-asym"})
      out.push_back(parse_skinny_form(word));
    return out;
  }();
  return all;
}
bool is_integer(const SkinnyForm& form) { return form.group > 0; }

at::Tensor bf16(const at::Tensor& x) { return x.to(at::kBFloat16); }

struct Problem {
  Case c;
  at::Tensor x_MK, bias_N, residual, norm_K;
  SkinnyWeight weight;

  Problem(const Case& given, const SkinnyForm& form) : c(given) {
    at::manual_seed(static_cast<uint64_t>(c.M * 1000003 + c.N * 1009 + c.K));
    x_MK = bf16(at::randn({c.M, c.K}));
    weight =
        quantize_rows_ref(bf16(at::randn({c.N, c.K}) / std::sqrt(static_cast<double>(c.K))), form);
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

  at::Tensor run(int64_t rows, bool in_place = false,
                 const std::function<void(SkinnyLinearArgs&)>& change = {}) const {
    const auto of = [](const at::Tensor& t) { return t.defined() ? t : at::zeros({1}, at::kByte); };
    const DeviceBuffer x(x_MK.narrow(0, 0, rows)), w(weight.codes), scale(of(weight.scale)),
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
    args.weight_type = weight.form.type;
    args.group = static_cast<int>(weight.form.group);
    args.epilogue = c.swiglu ? SkinnyEpilogue::kSwiglu : SkinnyEpilogue::kNone;
    args.dependent = rows % 2 == 1;
    if (change) change(args);
    EXPECT_EQ(skinny_linear(args, nullptr), cudaSuccess);
    return in_place ? res.tensor() : y.tensor();
  }
};

// K of whole and of broken blocks: what is behind the last input counts for nothing.
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
                        {16, 20, 128, false, false, false, false, true},
                        {1, 19, 32},
                        {2, 33, 96, false, true, true},
                        {16, 40, 160, true, false, true, true},
                        {7, 18, 544, true, true, true}};
  if (!small_sizes()) {
    out.push_back({1, 8192, 6144, false, false, true});
    out.push_back({1, 6144, 16384, false, true});
    out.push_back({7, 6144, 16384, false, true});
    out.push_back({16, 6144, 16384, true, true});
    out.push_back({16, 32768, 6144, false, false, true, true});
    out.push_back({2, 128000, 6144, false, false, true, false, true});
  } else {
    out.push_back({16, 16, 8192});                     // x does not fit: in chunks
    out.push_back({16, 16, 8224, true, false, true});  // the last of them broken
    out.push_back({13, 170, 8192, true, true, true});  // over more tiles than teams
    out.push_back({9, 40, 8192, false, false, true, true});
    out.push_back({16, 16, 13312, false, false, true});  // two steps of int4 at a time
    out.push_back({2, 120, 2048, true, true, true});     // whole steps of all warps
    out.push_back({10, 72, 4096, true, false, true, true});
  }
  return out;
}

class SkinnyLinearTest : public testing::TestWithParam<SkinnyForm> {};

TEST_P(SkinnyLinearTest, MatchesTheReference) {
  EM_NEEDS_GPU();
  for (const Case& c : cases()) {
    SCOPED_TRACE(fmt::format("{} x {} x {} bias {} residual {} norm {} swiglu {} f32 {}", c.M, c.N,
                             c.K, c.bias, c.residual, c.norm, c.swiglu, c.wide));
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

// Where all sums are exact the result is the reference's, rounded once: whole numbers as x, codes
// drawn over their whole range, scales and zero points drawn for each group. A code, scale or zero
// point that meets another input or group than its own shows.
TEST_P(SkinnyLinearTest, IsExactToTheRoundingOfItsResult) {
  EM_NEEDS_GPU();
  for (const auto& [M, K] : {std::pair<int64_t, int64_t>{1, 128}, {5, 672}, {16, 256}, {3, 96}}) {
    Problem p({M, 35, K, false, false, false, false, true}, GetParam());
    p.x_MK = bf16(at::randint(-1, 2, {M, K}).to(at::kFloat));
    const SkinnyForm& form = GetParam();
    if (is_integer(form)) {
      p.weight.codes.random_(0, 256);
      const auto drawn = [&](int64_t most) { return at::randint(0, most, p.weight.scale.sizes()); };
      p.weight.scale = drawn(4).add(1).to(at::kHalf) / 64;
      if (form.asymmetric)
        p.weight.zero = drawn(form.type == DType::kInt4 ? 16 : 256).to(at::kByte);
    } else if (form.type == DType::kFp8E4M3) {
      p.weight.codes = at::randint(0x28, 0x58, p.weight.codes.sizes()).to(at::kByte);
      p.weight.scale = at::pow(2.0F, at::randint(-3, 4, {35}).to(at::kFloat));
    } else {
      p.weight.codes = bf16(at::randint(-255, 256, p.weight.codes.sizes()).to(at::kFloat));
    }
    EXPECT_TRUE(p.run(M).equal(bf16(p.want().to(at::kFloat)).to(at::kFloat))) << M << " x " << K;
  }
}

#ifdef EM_EMULATED
// What a kernel asks for ahead of its use lies in the weight, once, and changes no bit.
TEST_P(SkinnyLinearTest, AsksForBytesThatAreThere) {
  using Range = std::pair<const void*, uint32_t>;
  for (const bool swiglu : {false, true}) {
    const Problem p({3, 130, 4096, false, false, true}, GetParam()),
        next({3, 220, 4096, false, false, false, swiglu}, GetParam());
    const auto bytes_of = [](const at::Tensor& x) { return static_cast<int64_t>(x.nbytes()); };
    const auto inside = [&](const Range& r, const at::Tensor& x) {
      const auto begin = reinterpret_cast<uintptr_t>(x.const_data_ptr()),
                 at = reinterpret_cast<uintptr_t>(r.first);
      return at >= begin && at + r.second <= begin + x.nbytes();
    };
    std::vector<Range> asked;
    const auto run = [&](int64_t own, int64_t ahead) {
      SkinnyLinearArgs of_next;
      of_next.weight_NK = next.weight.codes.const_data_ptr();
      if (next.weight.scale.defined()) of_next.scale = next.weight.scale.const_data_ptr();
      of_next.M = 3;
      of_next.N = 220;
      of_next.K = 4096;
      of_next.weight_type = GetParam().type;
      of_next.group = static_cast<int>(GetParam().group);
      of_next.epilogue = swiglu ? SkinnyEpilogue::kSwiglu : SkinnyEpilogue::kNone;
      asked.clear();
      emulation::prefetches = &asked;
      const at::Tensor y = p.run(3, false, [&](SkinnyLinearArgs& args) {
        args.l2_ahead = own;
        args.ahead = skinny_ahead(of_next, ahead);
      });
      emulation::prefetches = nullptr;
      return y;
    };
    const at::Tensor plain = run(0, 0);
    int64_t scales = 0;  // rows of groups are asked for anyway
    for (const Range& r : asked) scales += r.second;
    EXPECT_LE(scales, is_integer(GetParam()) ? bytes_of(p.weight.scale) : 0);

    EXPECT_TRUE(run(int64_t{1} << 30, int64_t{1} << 30).equal(plain));
    std::sort(asked.begin(), asked.end());
    int64_t of_next_weight = 0, of_next_scales = 0;
    for (size_t i = 0; i < asked.size(); ++i) {
      if (inside(asked[i], next.weight.codes)) {
        of_next_weight += asked[i].second;
      } else if (is_integer(GetParam()) && inside(asked[i], next.weight.scale)) {
        of_next_scales += asked[i].second;
      }
      if (i > 0) {
        EXPECT_GE(reinterpret_cast<uintptr_t>(asked[i].first),
                  reinterpret_cast<uintptr_t>(asked[i - 1].first) + asked[i - 1].second)
            << "asked for twice";
      }
    }
    // Of the rows that three multiprocessors begin with: whole rows, and their scales.
    const int64_t row = bytes_of(next.weight.codes) / 220;
    EXPECT_EQ(of_next_weight % row, 0);
    EXPECT_GE(of_next_weight, 96 * row);
    EXPECT_LE(of_next_weight, 220 * row);
    if (is_integer(GetParam())) {
      EXPECT_EQ(of_next_scales, of_next_weight / row * (bytes_of(next.weight.scale) / 220));
    }
  }
}
#endif

TEST_P(SkinnyLinearTest, RefusesWhatItCannotDo) {
  SkinnyLinearArgs args;
  args.scale = &args;
  args.weight_type = GetParam().type;
  args.group = static_cast<int>(GetParam().group);
  args.M = 17;
  args.N = args.K = 128;
  EXPECT_EQ(skinny_linear(args, nullptr), cudaErrorInvalidValue);
  args.M = 1;
  args.K = 68;
  EXPECT_EQ(skinny_linear(args, nullptr), cudaErrorInvalidValue);
  args.K = 128;
  args.group = 64;
  if (is_integer(GetParam())) {
    EXPECT_EQ(skinny_linear(args, nullptr), cudaErrorInvalidValue);
  }
  args.M = 0;
  EXPECT_EQ(skinny_linear(args, nullptr), cudaSuccess);
}

INSTANTIATE_TEST_SUITE_P(Forms, SkinnyLinearTest, testing::ValuesIn(forms()), [](const auto& info) {
  std::string name = skinny_form_name(info.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(QuantizeRowsTest, CodesAreThoseOfTheReference) {
  EM_NEEDS_GPU();
  for (const SkinnyForm& form : forms()) {
    if (form.type == DType::kBf16) continue;
    for (const int64_t K : {384, 72}) {
      SCOPED_TRACE(fmt::format("{} of {} inputs", skinny_form_name(form), K));
      at::manual_seed(3);
      at::Tensor w = at::randn({small_sizes() ? 5 : 4097, K}).to(at::kBFloat16);
      w[1].zero_();
      w[2] *= 1e-30;
      w[3].abs_();
      const SkinnyWeight want = quantize_rows_ref(w, form);
      const auto poisoned = [](const at::Tensor& like) {
        return like.defined() ? DeviceBuffer::poisoned(like.sizes(), like.scalar_type())
                              : DeviceBuffer::poisoned({1}, at::kByte);
      };
      const DeviceBuffer in(w), codes = poisoned(want.codes), scale = poisoned(want.scale),
                                zero = poisoned(want.zero);
      QuantizeRowsArgs args;
      args.weight_NK = in.data();
      args.codes = codes.data();
      args.scale = scale.data();
      args.zero = form.asymmetric ? zero.data() : nullptr;
      args.N = w.size(0);
      args.K = K;
      args.type = form.type;
      args.group = static_cast<int>(form.group);
      ASSERT_EQ(quantize_rows(args, nullptr), cudaSuccess);
      // The reference leaves groups of padding alone; no code of theirs counts.
      const int64_t groups = is_integer(form) ? (K + form.group - 1) / form.group : 0;
      const auto there = [&](const at::Tensor& x) {
        return groups > 0 ? x.narrow(1, 0, groups) : x;
      };
      EXPECT_TRUE(there(scale.tensor()).equal(there(want.scale)));
      if (form.asymmetric) {
        EXPECT_TRUE(there(zero.tensor()).equal(there(want.zero)));
      }
      SkinnyWeight got = want;
      got.codes = codes.tensor();
      EXPECT_TRUE(skinny_weight_numbers(got).equal(skinny_weight_numbers(want)));
      if (K % 128 == 0) {
        EXPECT_TRUE(got.codes.equal(want.codes))
            << (got.codes != want.codes).sum().item<int64_t>() << " codes differ";
      }
    }
  }
}

TEST(QuantizeRowsTest, WhatIsNoNumberShowsInTheScale) {
  EM_NEEDS_GPU();
  for (const SkinnyForm& form : forms()) {
    if (!is_integer(form)) continue;
    at::Tensor w = at::ones({3, 256}, at::kBFloat16);
    w[0][200] = std::numeric_limits<float>::quiet_NaN();
    w[2][3] = 3e38F;
    SkinnyWeight out = empty_skinny_weight(form, 3, 256, at::TensorOptions());
    const DeviceBuffer in(w), codes(out.codes), scale(at::zeros_like(out.scale)),
        zero(form.asymmetric ? out.zero : at::zeros({1}, at::kByte));
    ASSERT_EQ(quantize_rows({.weight_NK = in.data(),
                             .codes = codes.data(),
                             .scale = scale.data(),
                             .zero = form.asymmetric ? zero.data() : nullptr,
                             .N = 3,
                             .K = 256,
                             .type = form.type,
                             .group = static_cast<int>(form.group)},
                            nullptr),
              cudaSuccess);
    const at::Tensor finite = scale.tensor().isfinite().to(at::kLong);
    const int64_t groups = 256 / form.group;
    EXPECT_EQ(finite.sum().item<int64_t>(), 3 * groups - 2) << skinny_form_name(form);
    EXPECT_EQ(finite[0][200 / form.group].item<int64_t>(), 0);
    EXPECT_EQ(finite[2][0].item<int64_t>(), 0);
  }
}

TEST(WidenRowsTest, GivesTheNumbersOfEveryForm) {
  EM_NEEDS_GPU();
  for (const SkinnyForm& form : forms()) {
    if (form.type == DType::kBf16) continue;
    for (const auto& [N, K] : {std::pair<int64_t, int64_t>{3, 384}, {17, 40}, {5, 131}}) {
      at::manual_seed(N * 1000 + K);
      const SkinnyWeight weight = quantize_rows_ref(bf16(at::randn({N, K})), form);
      const DeviceBuffer codes(weight.codes), scale(weight.scale),
          zero(form.asymmetric ? weight.zero : at::zeros({1}, at::kByte));
      for (const auto& [type, kernel_type] :
           {std::pair{at::kFloat, DType::kF32}, std::pair{at::kBFloat16, DType::kBf16},
            std::pair{at::kHalf, DType::kF16}}) {
        const DeviceBuffer out = DeviceBuffer::poisoned({N, K}, type);
        ASSERT_EQ(widen_rows({.codes = codes.data(),
                              .scale = scale.data(),
                              .zero = form.asymmetric ? zero.data() : nullptr,
                              .out_NK = out.data(),
                              .N = N,
                              .K = K,
                              .type = form.type,
                              .group = static_cast<int>(form.group),
                              .out_type = kernel_type},
                             nullptr),
                  cudaSuccess);
        EXPECT_TRUE(out.tensor().equal(widen_rows(weight, type)))
            << skinny_form_name(form) << " " << N << " x " << K << " " << c10::toString(type);
      }
    }
  }
}

// What is packed for the CPU stands for the same numbers in the other order.
TEST(SkinnyWeightTest, HoldsThePackedNumbers) {
  at::manual_seed(5);
  for (const SkinnyForm& form : forms()) {
    if (form.type == DType::kFp8E4M3) continue;
    for (const int64_t inputs : {128, 200, 40, 384}) {
      const at::Tensor w = bf16(at::randn({21, inputs}));
      const PackedWeight packed = pack_weight(w, parse_packed_form(skinny_form_name(form)));
      const SkinnyWeight weight = skinny_weight(packed);
      EXPECT_EQ(weight.form, form);
      EXPECT_TRUE(skinny_weight_numbers(weight).equal(unpack_weight(packed, at::kDouble)))
          << skinny_form_name(form) << " " << inputs;
    }
  }
}

TEST(SkinnyWeightTest, RowsOfSeveralBecomeOne) {
  const SkinnyForm form = parse_skinny_form("int4-g32-asym");
  std::vector<SkinnyWeight> parts;
  std::vector<at::Tensor> numbers;
  for (const int64_t rows : {5, 16, 3}) {
    parts.push_back(quantize_rows_ref(bf16(at::randn({rows, 96})), form));
    numbers.push_back(skinny_weight_numbers(parts.back()));
  }
  const SkinnyWeight all = join_rows({&parts[0], &parts[1], &parts[2]});
  EXPECT_EQ(all.outputs, 24);
  EXPECT_TRUE(skinny_weight_numbers(all).equal(at::cat(numbers)));
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_TRUE(skinny_weight_numbers(parts[i]).equal(numbers[i]));
    EXPECT_TRUE(parts[i].codes.is_alias_of(all.codes) && parts[i].zero.is_alias_of(all.zero));
  }
  parts[1] = quantize_rows_ref(bf16(at::randn({2, 96})), parse_skinny_form("int4-asym"));
  EXPECT_THROW(join_rows({&parts[0], &parts[1]}), Error);
}

}  // namespace
}  // namespace euromodal
