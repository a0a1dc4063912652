// splice_rows_kernel.h — launchers of the splice on CUDA: raw pointers, stream last, no torch. T
// rows, M rows that replace others, D width.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/splice_rows/row_spans.h"

namespace euromodal {

/// Rows are bytes: any dtype of two bytes or a multiple.
struct SpliceForwardArgs {
  const void* emb_TD;
  const void* rows_MD;
  void* y_TD;      // not emb_TD
  RowSpans spans;  // the table is in device memory; they have M rows in all
  int64_t rows, row_bytes;
};

struct SpliceBackwardArgs {
  const void* dy_TD;
  void* demb_TD;   // null: not wanted. May be dy_TD.
  void* drows_MD;  // null: not wanted
  RowSpans spans;
  int64_t rows, row_bytes;
};

cudaError_t splice_rows_forward(const SpliceForwardArgs& args, cudaStream_t stream) noexcept;
/// Every element is written once: the same bits on every run.
cudaError_t splice_rows_backward(const SpliceBackwardArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
