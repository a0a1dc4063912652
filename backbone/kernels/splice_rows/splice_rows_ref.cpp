// splice_rows_ref.cpp — see splice_rows_ref.h. By index_copy on indices from the host: masked forms
// take the first three of five rows, or spread one row over three, without a word.
#include "backbone/kernels/splice_rows/splice_rows_ref.h"

#include <numeric>

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor splice_rows_ref(const at::Tensor& emb_TD, const at::Tensor& rows_MD,
                           const std::vector<RowSpan>& spans) {
  std::vector<int64_t> index;
  for (const RowSpan& span : spans) {
    index.resize(index.size() + static_cast<size_t>(span.rows));
    std::iota(index.end() - span.rows, index.end(), span.start);
  }
  const at::Tensor index_M =
      at::from_blob(index.data(), {static_cast<int64_t>(index.size())}, at::kLong)
          .to(emb_TD.device(), at::kLong, /*non_blocking=*/false, /*copy=*/true);
  return at::index_copy(emb_TD, 0, index_M, rows_MD);
}

}  // namespace euromodal
