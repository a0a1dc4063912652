// splice_rows_ref.h — the plain definition: index_copy on the numbers of the replaced rows.
#pragma once
#include "backbone/kernels/splice_rows/splice_rows.h"

namespace euromodal {

/// As splice_rows(); differentiable by ATen's own rules, on any device.
at::Tensor splice_rows_ref(const at::Tensor& emb_TD, const at::Tensor& rows_MD,
                           const std::vector<RowSpan>& spans);

}  // namespace euromodal
