// swiglu_ref.h — silu(gate) · up, the plain definition.
#pragma once
#include <ATen/core/Tensor.h>

namespace euromodal {

/// gate_TF, up_TF [T, F] -> [T, F]; differentiable by ATen's own rules.
at::Tensor swiglu_ref(const at::Tensor& gate_TF, const at::Tensor& up_TF);

}  // namespace euromodal
