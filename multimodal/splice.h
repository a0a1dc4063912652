// splice.h — media rows into the placeholder rows of the embeddings, by host spans. T packed rows,
// M media rows, D backbone width.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "encoders/media/media.h"

namespace euromodal {

/// One media item: its placeholder run in the packed rows, and how many rows it brings.
struct SpliceItem {
  int64_t start = 0;   // first placeholder row, counted over the whole pack
  int64_t length = 0;  // placeholder rows
  int64_t rows = 0;    // media rows
  Modality kind = Modality::kImage;
  int64_t item = 0;    // of its kind in its sample
  std::string sample;  // id, for messages
};

/// DataError naming the sample and both numbers unless the item brings as many rows as it has
/// placeholders.
void check_rows(const SpliceItem& item);

/// emb_TD [T, D] with the rows of `items` replaced by rows_MD [M, D], in order; same dtype.
/// Differentiable in both. DataError naming the sample and the numbers unless every item brings
/// exactly as many rows as it has placeholders.
at::Tensor splice(const at::Tensor& emb_TD, const at::Tensor& rows_MD,
                  const std::vector<SpliceItem>& items);

}  // namespace euromodal
