// rope_ref.h — rotary position embedding, the plain definition: x · cos + rotate_half(x) · sin.
#pragma once
#include "backbone/kernels/rope/mrope.h"

namespace euromodal {

/// As rope(); differentiable by ATen's own rules.
at::Tensor rope_ref(const at::Tensor& x_THN, const RopeTable& table, const at::Tensor& positions_T);

/// As mrope(), by transformers' formulas of Qwen2-VL and (interleaved) Qwen3-VL.
at::Tensor mrope_ref(const at::Tensor& x_THN, const RopeTable& table,
                     const at::Tensor& positions_3T, const MropeSections& sections);

}  // namespace euromodal
