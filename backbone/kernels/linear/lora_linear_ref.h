// lora_linear_ref.h — a linear layer with a low-rank update, the plain definition.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/linear/lora_linear.h"

namespace euromodal {

/// As lora_linear(); differentiable by ATen's own rules.
at::Tensor lora_linear_ref(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                           const at::Tensor& bias_O, const LoraUpdate& lora, const Segments& rows);

}  // namespace euromodal
