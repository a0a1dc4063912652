// packed_weight.h — the weight of a linear layer packed for packed_linear(): bf16 as it is, or
// rounded to int8 or int4 codes in groups of inputs with a scale (and a zero point). Layout:
// packed_layout.h. O outputs, I inputs.
#pragma once
#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/packed_linear/packed_layout.h"

namespace euromodal {

struct PackedWeight {
  PackedForm form;
  int64_t outputs = 0, inputs = 0;
  at::Tensor blocks;  // [ceil(O / 16), bytes of a block] u8

  bool defined() const { return blocks.defined(); }
  PackedLayout layout() const { return PackedLayout::of(form, inputs); }
  int64_t bytes() const { return static_cast<int64_t>(blocks.nbytes()); }
};

/// "bfloat16", "int8", "int4" (groups of 128), "int8-g32", "int4-g32", "int4-g128-asym" ...
std::string packed_form_name(const PackedForm& form);
/// The inverse; Error naming the word and the words there are.
PackedForm parse_packed_form(const std::string& word);

/// weight_OI [O, I] f32, bf16 or f16 on the CPU, any strides. Integers: round to nearest; symmetric
/// int4 puts the element of largest size of a group on -8, int8 on ±127; asymmetric spreads the
/// codes between the least and the greatest element (and zero). bf16: the weight must be bf16.
/// A weight that is not finite is an Error.
PackedWeight pack_weight(const at::Tensor& weight_OI, const PackedForm& form);

/// Codes that somebody else chose, taken as they are: weight = scale · (code - zero), G groups of
/// form.group inputs. codes_OI u8 (int4: below 16); scales_OG f16 [O, G]; zeros_OG u8 [O, G], or
/// undefined for a symmetric form (128 for int8, 8 for int4). Error: shapes, codes that the form
/// does not have, a scale that is not finite.
PackedWeight pack_codes(const at::Tensor& codes_OI, const at::Tensor& scales_OG,
                        const at::Tensor& zeros_OG, const PackedForm& form);

/// What pack_codes() takes, back from an integer form (Error for bf16); of symmetric forms without
/// zero points.
struct PackedCodes {
  at::Tensor codes_OI;   // u8 [O, I]
  at::Tensor scales_OG;  // f16 [O, G]
  at::Tensor zeros_OG;   // u8 [O, G] or undefined
};
PackedCodes unpack_codes(const PackedWeight& weight);

/// The weights that the codes stand for, [O, I] in `dtype`.
at::Tensor unpack_weight(const PackedWeight& weight, at::ScalarType dtype);

/// Memory in huge pages where the system gives them (a third faster to stream), [rows, bytes] u8.
at::Tensor huge_bytes(int64_t rows, int64_t bytes);

}  // namespace euromodal
