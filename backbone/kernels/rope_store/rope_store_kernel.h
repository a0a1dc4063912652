// rope_store_kernel.h — splits the fused projection of a decoding step, rotates queries and keys
// and writes keys and values into the pages of a cache. T rows, H query heads, K key/value heads, N
// head width, P positions a page, S sequences.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"
#include "backbone/kernels/rope/mrope_axis.h"

namespace euromodal {

struct RopeStoreArgs {
  const void* qkv_TO = nullptr;  // bf16 [T, (H + 2K) N]: queries, keys, values
  void* q_THN = nullptr;         // bf16, rotated
  void* k_pages = nullptr;       // [pages, K, P, N] of one layer
  void* v_pages = nullptr;
  DType kv_type = DType::kBf16;       // or kFp8E4M3: stored = value / scale, saturated
  const float* kv_scale_2 = nullptr;  // fp8: of keys, of values
  const float* cos_PN = nullptr;      // tables as rope()'s, rows of N, both halves alike
  const float* sin_PN = nullptr;
  const int32_t* position_T = nullptr;  // in its sequence: where the row is stored, and its angle
  /// M-RoPE: angles from three positions instead; [3, T] or null.
  const int32_t* rope_position_3T = nullptr;
  MropeSections mrope{};
  const int32_t* sequence_T = nullptr;     // row of the page table
  const int32_t* page_table_SP = nullptr;  // [S, max_pages]
  int64_t max_pages = 0;
  int64_t T = 0, H = 0, K = 0, N = 0, page_size = 0;
  bool dependent = false;
};

/// Rounded as rope() (tables and products to bf16). cudaErrorInvalidValue: N odd or above 256.
cudaError_t rope_store(const RopeStoreArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
