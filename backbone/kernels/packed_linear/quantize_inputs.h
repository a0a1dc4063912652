// quantize_inputs.h — rows rounded to int8 for integer products: one scale per row and group, codes
// in -127..127. T rows, I inputs padded to G groups.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace euromodal {

struct QuantizedInputs {
  at::Tensor codes_TI;  // i8 [T, G · group]; zeros behind the last input
  at::Tensor scale_TG;  // f32; NaN where an input is not finite
  at::Tensor sum_TG;    // i32: sums of codes
};

/// x_TI [T, I] of a floating dtype, contiguous. scale = largest size / 127, code = nearest.
QuantizedInputs quantize_inputs(const at::Tensor& x_TI, int64_t groups, int64_t group);

}  // namespace euromodal
