// float8_weight.cpp — see float8_weight.h. On a GPU by a kernel (float64: LibTorch's conversions);
// on the host by a table of the 256 codes, as c10 converts number by number.
#include "backbone/kernels/linear/float8_weight.h"

#include <array>
#include <bit>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <c10/util/Float8_e4m3fn.h>

#include "backbone/kernels/checks.h"
#include "backbone/kernels/cuda_ops.h"

namespace euromodal {
namespace {

constexpr float kLargestCode = 448.0F;
/// Below it the smallest code would leave bfloat16's normal numbers.
constexpr int kLeastExponent = -100;
constexpr int64_t kRowsGrain = 16;

std::array<float, 256> code_table() {
  std::array<float, 256> out{};
  for (size_t code = 0; code < out.size(); ++code)
    out[code] = c10::detail::fp8e4m3fn_to_fp32_value(static_cast<uint8_t>(code));
  return out;
}

/// The least power of two that takes `largest` to 448 or below.
float row_scale(float largest) {
  if (largest == 0.0F) return 1.0F;
  int exponent = 0;
  const float mantissa = std::frexp(largest / kLargestCode, &exponent);  // in [0.5, 1)
  if (mantissa == 0.5F) --exponent;
  return std::ldexp(1.0F, std::max(exponent, kLeastExponent));
}

at::Tensor widen_on_host(const at::Tensor& codes_OI, const at::Tensor& scale_O,
                         at::ScalarType dtype) {
  static const std::array<float, 256> table = code_table();
  const int64_t O = codes_OI.size(0), I = codes_OI.size(1);
  const at::Tensor bytes_OI = codes_OI.contiguous().view(at::kByte);
  at::Tensor out_OI = at::empty({O, I}, codes_OI.options().dtype(dtype));
  const uint8_t* codes = bytes_OI.const_data_ptr<uint8_t>();
  const float* scales = scale_O.const_data_ptr<float>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "widen_float8", [&] {
    scalar_t* out = out_OI.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, O, kRowsGrain, [&](int64_t begin, int64_t end) {
      std::array<scalar_t, 256> row;  // this row's value of each code
      for (int64_t o = begin; o < end; ++o) {
        for (size_t code = 0; code < row.size(); ++code)
          row[code] = static_cast<scalar_t>(table[code] * scales[o]);
        for (int64_t i = 0; i < I; ++i) out[o * I + i] = row[codes[o * I + i]];
      }
    });
  });
  return out_OI;
}

}  // namespace

bool is_float8(const at::Tensor& tensor) {
  return tensor.defined() && tensor.scalar_type() == at::kFloat8_e4m3fn;
}

Float8Weight round_to_float8(const at::Tensor& weight_OI) {
  const c10::NoGradGuard no_grad;
  check_shape(weight_OI, {-1, -1}, "round_to_float8", "weight_OI");
  const int64_t O = weight_OI.size(0), I = weight_OI.size(1);
  const auto options = weight_OI.options().requires_grad(false);
  const Float8Weight out{at::empty({O, I}, options.dtype(at::kFloat8_e4m3fn)),
                         at::ones({O}, options.dtype(at::kFloat))};
  if (O == 0 || I == 0) return out;
  const at::Tensor largest_O = weight_OI.abs().amax(1).to(at::kFloat).cpu();
  std::vector<float> scales;
  for (int64_t o = 0; o < O; ++o) {
    const float largest = largest_O.const_data_ptr<float>()[o];
    check(std::isfinite(largest), "round_to_float8: row {} holds {}, expected finite numbers", o,
          largest);
    scales.push_back(row_scale(largest));
  }
  out.scale_O.copy_(at::tensor(scales));
  // By a power of two, which rounds nothing, but where a number is far below all codes.
  at::Tensor scaled_OI = weight_OI.to(at::promoteTypes(weight_OI.scalar_type(), at::kFloat));
  scaled_OI = scaled_OI / out.scale_O.unsqueeze(1);
  out.codes_OI.copy_(scaled_OI);
  return out;
}

at::Tensor widen_float8(const at::Tensor& codes_OI, const at::Tensor& scale_O,
                        at::ScalarType dtype) {
  const c10::NoGradGuard no_grad;
  check(is_float8(codes_OI), "widen_float8: codes_OI is {}, expected Float8_e4m3fn",
        codes_OI.defined() ? c10::toString(codes_OI.scalar_type()) : "undefined");
  check_shape(codes_OI, {-1, -1}, "widen_float8", "codes_OI");
  check_shape(scale_O, {codes_OI.size(0)}, "widen_float8", "scale_O");
  if (codes_OI.is_cpu()) return widen_on_host(codes_OI, scale_O.contiguous(), dtype);
  if (codes_OI.is_cuda() && dtype != at::kDouble)
    return cuda_ops().widen_float8(codes_OI, scale_O, dtype);
  return codes_OI.to(dtype).mul_(scale_O.to(dtype).unsqueeze(1));
}

at::Tensor product_weight(const at::Tensor& weight_OI, const at::Tensor& scale_O,
                          at::ScalarType dtype) {
  return is_float8(weight_OI) ? widen_float8(weight_OI, scale_O, dtype) : weight_OI;
}

void check_product_weight(const at::Tensor& weight_OI, const at::Tensor& scale_O,
                          const at::Tensor& x_TI, const char* op) {
  if (!is_float8(weight_OI)) {
    check_same(weight_OI, x_TI, op, "weight_OI");
    check(!scale_O.defined(), "{}: a scale belongs to a float8 weight, this one is {}", op,
          c10::toString(weight_OI.scalar_type()));
    return;
  }
  check(!weight_OI.requires_grad(), "{}: a float8 weight cannot be trained", op);
  check_shape(scale_O, {weight_OI.size(0)}, op, "scale_O");
  check(scale_O.scalar_type() == at::kFloat, "{}: scale_O is {}, expected Float", op,
        c10::toString(scale_O.scalar_type()));
  check(weight_OI.device() == x_TI.device() && scale_O.device() == x_TI.device(),
        "{}: weight_OI and scale_O are on {} and {}, expected {}", op, weight_OI.device().str(),
        scale_O.device().str(), x_TI.device().str());
}

}  // namespace euromodal
