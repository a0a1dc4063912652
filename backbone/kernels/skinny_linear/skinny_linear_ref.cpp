// skinny_linear_ref.cpp — see skinny_linear_ref.h.
#include "backbone/kernels/skinny_linear/skinny_linear_ref.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace euromodal {

at::Tensor skinny_weight_numbers(const SkinnyWeight& weight) {
  const at::Tensor& codes = weight.codes;
  if (codes.scalar_type() == at::kBFloat16) return codes.to(at::kDouble);
  if (codes.scalar_type() != at::kByte)
    return codes.to(at::kFloat).to(at::kDouble) * weight.scale.to(at::kDouble).unsqueeze(1);
  const int64_t N = codes.size(0), groups = weight.scale.size(1);
  const at::Tensor low = codes.bitwise_and(15), high = codes.bitwise_right_shift(4);
  const at::Tensor code_NG = at::stack({low, high}, 2).reshape({N, groups, -1}).to(at::kDouble);
  const at::Tensor zero = weight.zero.defined() ? weight.zero.to(at::kDouble).unsqueeze(2)
                                                : at::full({1}, 8.0, at::kDouble);
  return ((code_NG - zero) * weight.scale.to(at::kDouble).unsqueeze(2)).reshape({N, -1});
}

SkinnyWeight quantize_rows_ref(const at::Tensor& weight_NK, at::ScalarType type) {
  const at::Tensor w = weight_NK.to(at::kFloat);
  if (type == at::kByte) {
    const int64_t N = w.size(0), groups = w.size(1) / 128;
    const at::Tensor g = w.view({N, groups, 128}), largest = g.abs().amax(2);
    at::Tensor scale =
        at::where(largest > 0, largest / 7.0F, at::ones_like(largest)).to(at::kBFloat16);
    scale = at::where(scale == 0, at::ones_like(scale), scale);
    const at::Tensor code =
        ((g / scale.to(at::kFloat).unsqueeze(2)).round() + 8).clamp(0, 15).to(at::kByte);
    const at::Tensor pairs = code.view({N, -1, 2});
    return {pairs.select(2, 0).bitwise_or(pairs.select(2, 1).bitwise_left_shift(4)), scale, {}};
  }
  check(type == at::kChar || type == at::kFloat8_e4m3fn, "quantize_rows: {} is no form of weights",
        c10::toString(type));
  const float most = type == at::kChar ? 127.0F : 448.0F;
  const at::Tensor largest = w.abs().amax(1);
  const at::Tensor scale = at::where(largest > 0, largest / most, at::ones_like(largest));
  const at::Tensor code = (w / scale.unsqueeze(1)).clamp(-most, most);
  return {type == at::kChar ? code.round().to(at::kChar) : code.to(type), scale, {}};
}

}  // namespace euromodal
