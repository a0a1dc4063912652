// splice_rows.h — runs of rows of one matrix replaced by the rows of another, in order.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace euromodal {

struct RowSpan {
  int64_t start = 0;  // first row that is replaced
  int64_t rows = 0;
};

/// emb_TD [T, D] with the rows of `spans` (ascending, without overlap) replaced by rows_MD [M, D],
/// in order; M rows in all; same dtype. Differentiable in both.
at::Tensor splice_rows(const at::Tensor& emb_TD, const at::Tensor& rows_MD,
                       const std::vector<RowSpan>& spans);

}  // namespace euromodal
