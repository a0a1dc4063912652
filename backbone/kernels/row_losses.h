// row_losses.h — what losses over rows of hidden states share: the walk over rows in chunks, and
// from the losses of rows to their sum, the same bits for packed and single samples.
#pragma once
#include <algorithm>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

/// Sum of row_loss_R [R] f32 or f64, a scalar of that dtype; added up in f64. per_sample: the sums
/// of the samples are rounded to f32 and added in order, which is what adding up the losses of
/// separate calls gives.
at::Tensor sum_row_losses(const at::Tensor& row_loss_R, const Segments& rows);

/// Weights and losses of R rows in the dtype that they are summed in: f32, or f64 for f64.
struct RowLosses {
  /// For hidden_RD [R, D], on its device; `row_weight_R` may be undefined: all 1.
  RowLosses(const at::Tensor& hidden_RD, const at::Tensor& row_weight_R);
  /// Rows [begin, begin + count) of the weights; undefined: all 1.
  at::Tensor weights(int64_t begin, int64_t count) const;

  at::ScalarType wide;
  at::Tensor weight_R;  // contiguous, or undefined
  at::Tensor loss_R;    // not yet filled
};

/// Calls chunk(begin, count, aligned) for stretches of at most `chunk_rows` of R rows in order, and
/// done() behind the last of a sample. All rows are one sample, unless rows.per_sample; then the
/// products of a chunk must be aligned (matmul.h), so that its bits do not depend on its place.
template <typename Chunk, typename Done>
void for_row_chunks(const Segments& rows, int64_t R, int64_t chunk_rows, const Chunk& chunk,
                    const Done& done) {
  const auto sample = [&](int64_t begin, int64_t length) {
    for (int64_t at = 0; at < length; at += chunk_rows)
      chunk(begin + at, std::min(chunk_rows, length - at), rows.per_sample);
    done();
  };
  if (!rows.per_sample) return sample(0, R);
  for (int64_t s = 0; s < rows.count(); ++s) sample(rows.begin(s), rows.length(s));
}

}  // namespace euromodal
