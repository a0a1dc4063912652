// decode_attention.h — attention of the newest few positions of sequences over their keys and
// values in pages on the CPU, with grouped-query heads: every key and value is read once for all
// query heads of its group (flash-decoding, Dao et al. 2023). T rows, H query heads, K key/value
// heads, N head width.
#pragma once
#include <span>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/cpu_features.h"
#include "backbone/kernels/decode_attention/kv_layout.h"

namespace euromodal {

/// Rows [row, row + rows) of the queries are the last of the `length` positions in `pages`.
struct DecodeSequence {
  std::span<const uint8_t* const> pages;
  int64_t length = 0;
  int64_t row = 0, rows = 0;
};

/// Rows of a sequence from which attention over a contiguous view is the better choice.
inline constexpr int64_t kDecodeRows = 16;

/// q_THN: f32, bf16 or f16 on the CPU. Writes the sequences' rows of out_THN (contiguous, as q_THN)
/// and no others. Sums in f32. A row's bits depend on its own position and cache alone, not on the
/// other rows and sequences nor on the threads.
void decode_attention(const at::Tensor& q_THN, const KvLayout& layout, int64_t layer,
                      std::span<const DecodeSequence> sequences, double scale,
                      const at::Tensor& out_THN, CpuIsa isa = cpu_isa());

}  // namespace euromodal
