// row_losses.h — from the losses of rows to their sum, the same bits for packed and single samples.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

/// Sum of row_loss_R [R] f32 or f64, a scalar of that dtype; added up in f64. per_sample: the sums
/// of the samples are rounded to f32 and added in order, which is what adding up the losses of
/// separate calls gives.
at::Tensor sum_row_losses(const at::Tensor& row_loss_R, const Segments& rows);

}  // namespace euromodal
