// rope_ref.h — rotary position embedding, the plain definition: x · cos + rotate_half(x) · sin.
#pragma once
#include "backbone/kernels/rope/rope.h"

namespace euromodal {

/// As rope(); differentiable by ATen's own rules.
at::Tensor rope_ref(const at::Tensor& x_THN, const RopeTable& table, const at::Tensor& positions_T);

}  // namespace euromodal
