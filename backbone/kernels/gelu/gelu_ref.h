// gelu_ref.h — GELU by ATen's operators, rounding as transformers' activations.
#pragma once
#include "backbone/kernels/gelu/gelu.h"

namespace euromodal {

/// As gelu(); differentiable by ATen's own rules.
at::Tensor gelu_ref(const at::Tensor& x, GeluKind kind);

}  // namespace euromodal
