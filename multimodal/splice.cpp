// splice.cpp — see splice.h. By index_copy on indices from the host: masked forms take the first
// three of five rows, or spread one row over three slots, without a word.
#include "multimodal/splice.h"

#include <numeric>

#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_copy.h>

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
  std::vector<int64_t> index;
  int64_t total = 0, end = 0;
  for (const SpliceItem& item : items) {
    check_rows(item);
    check(item.start >= end && item.length >= 0 && item.start <= emb_TD.size(0) - item.length,
          "sample {}: {} {}: placeholder rows {} to {} overlap others or leave the {} rows",
          item.sample, modality_name(item.kind), item.item, item.start, item.start + item.length,
          emb_TD.size(0));
    end = item.start + item.length;
    total += item.rows;
    index.resize(index.size() + static_cast<size_t>(item.length));
    std::iota(index.end() - item.length, index.end(), item.start);
  }
  check<DataError>(total == rows_MD.size(0),
                   "splice: {} media items from sample {} on ask for {} rows, but there are {}",
                   items.size(), items.empty() ? "-" : items.front().sample, total,
                   rows_MD.size(0));
  if (total == 0) return emb_TD;
  const at::Tensor index_M =
      at::from_blob(index.data(), {total}, at::kLong).to(emb_TD.device(), at::kLong, false, true);
  return at::index_copy(emb_TD, 0, index_M, rows_MD);
}

}  // namespace euromodal
