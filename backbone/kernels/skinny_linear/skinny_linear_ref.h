// skinny_linear_ref.h — what skinny_linear and quantize_rows mean, in ATen's plainest operators.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/skinny_linear/skinny_weight.h"

namespace euromodal {

/// The numbers that a weight stands for -> [O, I] f64.
at::Tensor skinny_weight_numbers(const SkinnyWeight& weight);

/// Of weight_OI bf16 [O, I] on the CPU, in any form.
SkinnyWeight quantize_rows_ref(const at::Tensor& weight_OI, const SkinnyForm& form);

}  // namespace euromodal
