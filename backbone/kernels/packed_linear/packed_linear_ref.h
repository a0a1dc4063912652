// packed_linear_ref.h — packed_linear(), the plain definition.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/packed_linear/packed_weight.h"

namespace euromodal {

/// Integers: the same bits as packed_linear(). bf16: summed in double, rounded once.
at::Tensor packed_linear_ref(const at::Tensor& x_TI, const PackedWeight& weight,
                             const at::Tensor& bias_O);

}  // namespace euromodal
