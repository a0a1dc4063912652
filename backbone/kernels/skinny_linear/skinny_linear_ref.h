// skinny_linear_ref.h — what skinny_linear and quantize_rows mean, in ATen's plainest operators.
#pragma once
#include <ATen/core/Tensor.h>

namespace euromodal {

/// A weight in one of the forms of skinny_linear_kernel.h.
struct SkinnyWeight {
  at::Tensor codes;        // bf16, float8_e4m3fn or int8 [N, K]; int4: byte [N, K/2]
  at::Tensor scale, zero;  // as SkinnyLinearArgs; undefined where there is none
};

/// The numbers that a weight stands for -> [N, K] f64.
at::Tensor skinny_weight_numbers(const SkinnyWeight& weight);

/// Of weight_NK bf16 [N, K]; `type`: float8_e4m3fn, int8 (kChar), or kByte for int4 in groups of
/// 128.
SkinnyWeight quantize_rows_ref(const at::Tensor& weight_NK, at::ScalarType type);

}  // namespace euromodal
