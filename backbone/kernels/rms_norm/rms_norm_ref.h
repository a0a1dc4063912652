// rms_norm_ref.h — y = w · x / sqrt(mean(x²) + eps), the plain definition with LlamaRMSNorm's
// rounding.
#pragma once
#include <ATen/core/Tensor.h>

namespace euromodal {

/// x_TD [T, D], weight_D [D] -> [T, D]; differentiable by ATen's own rules.
at::Tensor rms_norm_ref(const at::Tensor& x_TD, const at::Tensor& weight_D, double eps);

}  // namespace euromodal
