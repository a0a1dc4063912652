// linear_ref.h — y = x Wᵀ + b, the plain definition.
#pragma once
#include <ATen/core/Tensor.h>

namespace euromodal {

/// x_TI [T, I], weight_OI [O, I], bias_O [O] or undefined -> [T, O]; differentiable by ATen's own
/// rules.
at::Tensor linear_ref(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                      const at::Tensor& bias_O);

}  // namespace euromodal
