// matmul.h — matrix products over packed rows, whole or sample by sample.
//
// The rows of a product may have other bits when the product has another number of rows (the
// library picks its blocking by size) or when its operands start at another alignment. So with
// per_sample every sample is a product of its own, on operands that start at 64 bytes.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

/// x_TI [T, I] times w_IO [I, O] (may be a transposed view), plus bias_O where defined -> [T, O].
at::Tensor rows_matmul(const at::Tensor& x_TI, const at::Tensor& w_IO, const at::Tensor& bias_O,
                       const Segments& rows);

/// dy_TO [T, O], x_TI [T, I] -> dyᵀ x [O, I]. per_sample: ((g0 + g1) + g2) + ..., each rounded to
/// the dtype, which is what accumulating into .grad one sample at a time gives.
at::Tensor rows_outer(const at::Tensor& dy_TO, const at::Tensor& x_TI, const Segments& rows);

/// Column sums of dy_TO -> [O], summed as rows_outer does.
at::Tensor rows_sum(const at::Tensor& dy_TO, const Segments& rows);

/// Rows [begin, begin + count) as a contiguous tensor that starts at 64 bytes.
at::Tensor aligned_rows(const at::Tensor& x_TI, int64_t begin, int64_t count);

}  // namespace euromodal
