// rms_norm.h — y = w · x / sqrt(mean(x²) + eps) (Zhang and Sennrich 2019). Rounding as Hugging
// Face's LlamaRMSNorm: normalised in fp32, rounded to x's dtype, then multiplied by w.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

/// x_TD [T, D], weight_D [D] -> [T, D].
at::Tensor rms_norm(const at::Tensor& x_TD, const at::Tensor& weight_D, double eps,
                    const Segments& rows);

}  // namespace euromodal
