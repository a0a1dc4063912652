// layer_norm_ref.h — y = w · (x - mean) / sqrt(var + eps) + b, the plain definition.
#pragma once
#include <ATen/core/Tensor.h>

namespace euromodal {

/// x_TD [T, D], weight_D [D], bias_D [D] -> [T, D]; differentiable by ATen's own rules.
at::Tensor layer_norm_ref(const at::Tensor& x_TD, const at::Tensor& weight_D,
                          const at::Tensor& bias_D, double eps);

}  // namespace euromodal
