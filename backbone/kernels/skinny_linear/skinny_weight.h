// skinny_weight.h — a weight in one of the forms of skinny_linear_kernel.h, and how one that is
// packed for the CPU becomes one: the same codes, scales and zero points in another order. O
// outputs, I inputs, G groups of inputs.
#pragma once
#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/cuda/dtype.h"
#include "backbone/kernels/packed_linear/packed_weight.h"

namespace euromodal {

struct SkinnyForm {
  DType type = DType::kBf16;  // kBf16, kFp8E4M3, kInt8, kInt4
  int64_t group = 0;          // integers: 32 or 128
  bool asymmetric = false;    // integers
  bool operator==(const SkinnyForm&) const = default;
};

/// "float8", or as packed_form_name().
std::string skinny_form_name(const SkinnyForm& form);
/// The inverse; Error naming the word and the words there are.
SkinnyForm parse_skinny_form(const std::string& word);
SkinnyForm skinny_form(const PackedForm& form);

struct SkinnyWeight {
  SkinnyForm form;
  int64_t outputs = 0, inputs = 0;
  at::Tensor codes;        // bf16 [O, I], or u8 [O, skinny_row_bytes()]
  at::Tensor scale, zero;  // as SkinnyLinearArgs: f32 [O] or f16 [O, G]; i8 or u8 [O, G] as u8

  bool defined() const { return codes.defined(); }
  int64_t bytes() const;
  SkinnyWeight to(at::Device device) const;
};

/// Uninitialised, on options' device.
SkinnyWeight empty_skinny_weight(const SkinnyForm& form, int64_t outputs, int64_t inputs,
                                 const at::TensorOptions& options);

/// Of a weight on the CPU: bf16 pairs become the plain matrix, integers stay what they are.
SkinnyWeight skinny_weight(const PackedWeight& weight);

/// The numbers that a weight stands for, [O, I] in `dtype` (f32, bf16, f16), on its device; bf16 as
/// it is where that is asked for.
at::Tensor widen_rows(const SkinnyWeight& weight, at::ScalarType dtype);

/// One weight of the rows of all, which are of one form and width; each part becomes a view of it.
SkinnyWeight join_rows(const std::vector<SkinnyWeight*>& parts);

}  // namespace euromodal
