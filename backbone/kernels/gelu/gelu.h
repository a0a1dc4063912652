// gelu.h — Gaussian error linear unit (Hendrycks and Gimpel 2016) in the three forms of encoders.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/gelu/gelu_kind.h"

namespace euromodal {

/// Elementwise; any shape and, on the CPU, any floating dtype (on CUDA f32, bf16, f16).
at::Tensor gelu(const at::Tensor& x, GeluKind kind);

}  // namespace euromodal
