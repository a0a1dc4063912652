// layer_norm.h — y = w · (x - mean) / sqrt(var + eps) + b (Ba et al. 2016).
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

/// x_TD [T, D], weight_D [D], bias_D [D] -> [T, D].
at::Tensor layer_norm(const at::Tensor& x_TD, const at::Tensor& weight_D, const at::Tensor& bias_D,
                      double eps, const Segments& rows);

}  // namespace euromodal
