// splice.cpp — see splice.h: checks that name the sample; the operator is kernels/splice_rows.
#include "multimodal/splice.h"

#include <ATen/core/Tensor.h>

#include "backbone/kernels/splice_rows/splice_rows.h"
#include "core/error.h"

namespace euromodal {

void check_rows(const SpliceItem& item) {
  check<DataError>(item.length == item.rows,
                   "sample {}: {} {} has {} placeholder tokens but {} feature rows", item.sample,
                   modality_name(item.kind), item.item, item.length, item.rows);
}

at::Tensor splice(const at::Tensor& emb_TD, const at::Tensor& rows_MD,
                  const std::vector<SpliceItem>& items) {
  check(emb_TD.dim() == 2 && rows_MD.dim() == 2 && emb_TD.size(1) == rows_MD.size(1) &&
            emb_TD.scalar_type() == rows_MD.scalar_type(),
        "splice: embeddings [{}] {} and media rows [{}] {} do not fit",
        fmt::join(emb_TD.sizes(), ", "), c10::toString(emb_TD.scalar_type()),
        fmt::join(rows_MD.sizes(), ", "), c10::toString(rows_MD.scalar_type()));
  std::vector<RowSpan> spans;
  int64_t total = 0, end = 0;
  for (const SpliceItem& item : items) {
    check_rows(item);
    check(item.start >= end && item.length >= 0 && item.start <= emb_TD.size(0) - item.length,
          "sample {}: {} {}: placeholder rows {} to {} overlap others or leave the {} rows",
          item.sample, modality_name(item.kind), item.item, item.start, item.start + item.length,
          emb_TD.size(0));
    end = item.start + item.length;
    total += item.rows;
    spans.push_back({item.start, item.length});
  }
  check<DataError>(total == rows_MD.size(0),
                   "splice: {} media items from sample {} on ask for {} rows, but there are {}",
                   items.size(), items.empty() ? "-" : items.front().sample, total,
                   rows_MD.size(0));
  return splice_rows(emb_TD, rows_MD, spans);
}

}  // namespace euromodal
