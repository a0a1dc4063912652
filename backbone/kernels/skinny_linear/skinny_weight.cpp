// skinny_weight.cpp — see skinny_weight.h.
#include "backbone/kernels/skinny_linear/skinny_weight.h"

#include <vector>

#include <ATen/ATen.h>

#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/skinny_linear/skinny_layout.h"
#include "backbone/kernels/skinny_linear/skinny_linear_ref.h"
#include "core/error.h"

namespace euromodal {

namespace {

constexpr const char* kFloat8 = "float8";

/// [O, G] with zeros behind, up to the groups of whole blocks.
at::Tensor padded_groups(const at::Tensor& x_OG, int64_t groups) {
  return at::constant_pad_nd(x_OG, {0, groups - x_OG.size(1)});
}

/// Codes u8 [O, I] in the order of the units.
at::Tensor codes_in_units(const at::Tensor& codes_OI, DType type) {
  const int64_t O = codes_OI.size(0), I = codes_OI.size(1),
                padded = skinny_blocks(I) * kSkinnyBlock;
  const at::Tensor all = at::constant_pad_nd(codes_OI, {0, padded - I});
  if (type == DType::kInt8) {  // pieces of 8 codes; unsigned around 128 becomes signed
    const at::Tensor octets = all.bitwise_xor(128).view({O, -1, 2, 4, 8});
    return octets.transpose(2, 3).contiguous().view({O, -1});
  }
  const at::Tensor pairs = all.view({O, -1, 2}),
                   bytes = pairs.select(2, 0).bitwise_or(pairs.select(2, 1).bitwise_left_shift(4));
  return bytes.view({O, -1, 4, 4, 4}).transpose(2, 3).contiguous().view({O, -1});
}

}  // namespace

SkinnyForm skinny_form(const PackedForm& form) {
  switch (form.form) {
    case WeightForm::kBf16:
      return {};
    case WeightForm::kInt8:
      return {DType::kInt8, form.group, form.asymmetric};
    case WeightForm::kInt4:
      return {DType::kInt4, form.group, form.asymmetric};
  }
  return {};
}

std::string skinny_form_name(const SkinnyForm& form) {
  if (form.type == DType::kBf16) return packed_form_name({});
  if (form.type == DType::kFp8E4M3) return kFloat8;
  return packed_form_name({form.type == DType::kInt8 ? WeightForm::kInt8 : WeightForm::kInt4,
                           form.group, form.asymmetric});
}

SkinnyForm parse_skinny_form(const std::string& word) {
  if (word == kFloat8) return {DType::kFp8E4M3, 0, false};
  try {
    return skinny_form(parse_packed_form(word));
  } catch (const Error& error) {
    throw Error("{}; on a GPU also {}", error.what(), kFloat8);
  }
}

int64_t SkinnyWeight::bytes() const {
  size_t out = 0;
  for (const at::Tensor* part : {&codes, &scale, &zero})
    if (part->defined()) out += part->nbytes();
  return static_cast<int64_t>(out);
}

SkinnyWeight SkinnyWeight::to(at::Device device) const {
  const auto moved = [&](const at::Tensor& x) { return x.defined() ? x.to(device) : x; };
  return {form, outputs, inputs, moved(codes), moved(scale), moved(zero)};
}

SkinnyWeight empty_skinny_weight(const SkinnyForm& form, int64_t outputs, int64_t inputs,
                                 const at::TensorOptions& options) {
  SkinnyWeight out{form, outputs, inputs, {}, {}, {}};
  const auto plain = options.requires_grad(false), u8 = plain.dtype(at::kByte);
  if (form.type == DType::kBf16) {
    out.codes = at::empty({outputs, inputs}, plain.dtype(at::kBFloat16));
    return out;
  }
  out.codes = at::empty({outputs, skinny_row_bytes(form.type, inputs)}, u8);
  if (form.type == DType::kFp8E4M3) {
    out.scale = at::empty({outputs}, plain.dtype(at::kFloat));
    return out;
  }
  const int64_t groups = skinny_groups(inputs, form.group);
  out.scale = at::empty({outputs, groups}, plain.dtype(at::kHalf));
  if (form.asymmetric) out.zero = at::empty({outputs, groups}, u8);
  return out;
}

SkinnyWeight skinny_weight(const PackedWeight& weight) {
  SkinnyWeight out{skinny_form(weight.form), weight.outputs, weight.inputs, {}, {}, {}};
  if (out.form.type == DType::kBf16) {
    out.codes = unpack_weight(weight, at::kBFloat16);
    return out;
  }
  const PackedCodes parts = unpack_codes(weight);
  const int64_t groups = skinny_groups(weight.inputs, out.form.group);
  out.codes = codes_in_units(parts.codes_OI, out.form.type);
  out.scale = padded_groups(parts.scales_OG, groups);
  if (parts.zeros_OG.defined()) {
    const bool int8 = out.form.type == DType::kInt8;
    out.zero = padded_groups(int8 ? parts.zeros_OG.bitwise_xor(128) : parts.zeros_OG, groups);
  }
  return out;
}

at::Tensor widen_rows(const SkinnyWeight& weight, at::ScalarType dtype) {
  if (weight.form.type == DType::kBf16) return weight.codes.to(dtype);
  if (weight.codes.is_cuda()) return cuda_ops().widen_rows(weight, dtype);
  return skinny_weight_numbers(weight).to(at::kFloat).to(dtype);
}

SkinnyWeight join_rows(const std::vector<SkinnyWeight*>& parts) {
  check(!parts.empty(), "join_rows: no weights");
  SkinnyWeight out = *parts[0];
  if (parts.size() == 1) return out;
  out.outputs = 0;
  std::vector<at::Tensor> codes, scales, zeros;
  for (const SkinnyWeight* part : parts) {
    check(part->form == out.form && part->inputs == out.inputs,
          "join_rows: {} of {} inputs beside {} of {}", skinny_form_name(part->form), part->inputs,
          skinny_form_name(out.form), out.inputs);
    out.outputs += part->outputs;
    codes.push_back(part->codes);
    scales.push_back(part->scale);
    zeros.push_back(part->zero);
  }
  out.codes = at::cat(codes);
  if (out.scale.defined()) out.scale = at::cat(scales);
  if (out.zero.defined()) out.zero = at::cat(zeros);
  int64_t begin = 0;
  for (SkinnyWeight* part : parts) {
    const auto rows = [&](const at::Tensor& x) {
      return x.defined() ? x.narrow(0, begin, part->outputs) : x;
    };
    part->codes = rows(out.codes);
    part->scale = rows(out.scale);
    part->zero = rows(out.zero);
    begin += part->outputs;
  }
  return out;
}

}  // namespace euromodal
