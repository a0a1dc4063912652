// float8_weight.h — a frozen matrix in one byte a number: W[o, i] = codes[o, i] · scale[o], codes
// in float8 e4m3 (Micikevicius et al. 2022, arXiv:2209.05433), scales powers of two. So widening it
// rounds nothing (in bfloat16, float32 and float64), and a product with it is, bit for bit, the
// product with the rounded matrix. O outputs, I inputs.
#pragma once
#include <ATen/core/Tensor.h>

namespace euromodal {

struct Float8Weight {
  at::Tensor codes_OI;  // [O, I] float8_e4m3fn
  at::Tensor scale_O;   // [O] f32
};

/// weight_OI [O, I] of any float dtype, rounded to nearest even; the largest of a row is a code of
/// 224 to 448. Error naming the row when a weight is not finite.
Float8Weight round_to_float8(const at::Tensor& weight_OI);

bool is_float8(const at::Tensor& tensor);

/// codes_OI, scale_O as above, on one device -> [O, I] of `dtype`, contiguous, without gradient.
at::Tensor widen_float8(const at::Tensor& codes_OI, const at::Tensor& scale_O,
                        at::ScalarType dtype);

/// weight_OI as it is, or widened where it is float8: what linear() and lora_linear() multiply
/// with.
at::Tensor product_weight(const at::Tensor& weight_OI, const at::Tensor& scale_O,
                          at::ScalarType dtype);

/// That weight_OI is of x's dtype and device and has no scale, or that it is float8, frozen, and
/// has a scale of the right shape.
void check_product_weight(const at::Tensor& weight_OI, const at::Tensor& scale_O,
                          const at::Tensor& x_TI, const char* op);

}  // namespace euromodal
