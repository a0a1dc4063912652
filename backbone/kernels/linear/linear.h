// linear.h — y = x Wᵀ + b over packed rows.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

/// x_TI [T, I], weight_OI [O, I], bias_O [O] or undefined -> [T, O], all of one dtype. A weight
/// that does not require grad keeps neither input nor weight gradient. rows.per_sample: products
/// and weight-gradient sums run sample by sample (packed = unpacked, bit for bit).
/// scale_O: of a float8 weight (float8_weight.h), which is widened for each product and not kept.
at::Tensor linear(const at::Tensor& x_TI, const at::Tensor& weight_OI, const at::Tensor& bias_O,
                  const Segments& rows, const at::Tensor& scale_O = {});

}  // namespace euromodal
