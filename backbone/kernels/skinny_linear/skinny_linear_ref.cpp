// skinny_linear_ref.cpp — see skinny_linear_ref.h. One code at a time, by skinny_byte().
#include "backbone/kernels/skinny_linear/skinny_linear_ref.h"

#include <ATen/ATen.h>
#include <c10/util/Float8_e4m3fn.h>

#include "backbone/kernels/skinny_linear/skinny_layout.h"
#include "core/error.h"

namespace euromodal {

namespace {

double code_number(DType type, uint8_t byte, int64_t k) {
  switch (type) {
    case DType::kFp8E4M3:
      return c10::detail::fp8e4m3fn_to_fp32_value(byte);
    case DType::kInt8:
      return static_cast<int8_t>(byte);
    default:
      return k % 2 == 0 ? byte & 15 : byte >> 4;
  }
}

}  // namespace

at::Tensor skinny_weight_numbers(const SkinnyWeight& weight) {
  const DType type = weight.form.type;
  if (type == DType::kBf16) return weight.codes.to(at::kDouble);
  const int64_t O = weight.outputs, I = weight.inputs;
  at::Tensor out_OI = at::empty({O, I}, at::kDouble);
  const at::Tensor bytes = weight.codes.contiguous(), scale = weight.scale.to(at::kDouble),
                   zero = weight.zero.defined() ? weight.zero.contiguous() : at::Tensor();
  const uint8_t* code = bytes.const_data_ptr<uint8_t>();
  const auto* scales = scale.const_data_ptr<double>();
  const double middle = type == DType::kInt4 ? 8.0 : 0.0;
  for (int64_t o = 0; o < O; ++o) {
    for (int64_t k = 0; k < I; ++k) {
      const int64_t g = type == DType::kFp8E4M3
                            ? o
                            : o * skinny_groups(I, weight.form.group) + k / weight.form.group;
      const double from =
          zero.defined() ? code_number(type, zero.const_data_ptr<uint8_t>()[g], 0) : middle;
      out_OI.mutable_data_ptr<double>()[o * I + k] =
          scales[g] * (code_number(type, code[o * bytes.size(1) + skinny_byte(type, k)], k) - from);
    }
  }
  return out_OI;
}

SkinnyWeight quantize_rows_ref(const at::Tensor& weight_OI, const SkinnyForm& form) {
  if (form.type != DType::kFp8E4M3) {
    const WeightForm kind = form.type == DType::kBf16   ? WeightForm::kBf16
                            : form.type == DType::kInt8 ? WeightForm::kInt8
                                                        : WeightForm::kInt4;
    return skinny_weight(pack_weight(weight_OI, {kind, form.group, form.asymmetric}));
  }
  const int64_t O = weight_OI.size(0), I = weight_OI.size(1);
  const at::Tensor w = weight_OI.to(at::kFloat), largest = w.abs().amax(1);
  SkinnyWeight out = empty_skinny_weight(form, O, I, w.options());
  out.codes.zero_();
  out.scale = at::where(largest > 0, largest / 448.0F, at::ones_like(largest));
  const at::Tensor codes =
      (w / out.scale.unsqueeze(1)).clamp(-448.0F, 448.0F).to(at::kFloat8_e4m3fn).view(at::kByte);
  for (int64_t k = 0; k < I; ++k)
    out.codes.select(1, skinny_byte(form.type, k)).copy_(codes.select(1, k));
  return out;
}

}  // namespace euromodal
