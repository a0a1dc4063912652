// decode_attention_kernel.h — attention of one new token per sequence over keys and values in
// pages, with grouped-query heads: every key and value is read once for all query heads of its
// group, split over blocks along the sequence (flash-decoding, Dao et al. 2023). B sequences, H
// query heads, K key/value heads, N head width, P positions a page.
#pragma once
#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

struct DecodeAttentionArgs {
  const void* q_BHN = nullptr;  // bf16, rotated; all positions are in the pages
  /// Instead, as the projection gave them, queries, keys and values of the sequences' last
  /// positions: rotated by those positions, attended and stored, with the bits of rope_store().
  const void* qkv_BO = nullptr;   // bf16 [B, (H + 2K) N]
  const float* cos_PN = nullptr;  // tables as rope()'s, rows of N, both halves alike
  const float* sin_PN = nullptr;
  void* k_pages = nullptr;  // [pages, K, P, N] of one layer; written for qkv_BO alone
  void* v_pages = nullptr;
  /// Or kFp8E4M3 (N = 128): value = stored · scale; products are then of f16, queries up to 65504.
  DType kv_type = DType::kBf16;
  const float* kv_scale_2 = nullptr;  // fp8: of keys, of values
  const int32_t* length_B = nullptr;  // keys of each sequence, on the device; 0: the result is zero
  const int32_t* page_table_BP = nullptr;  // [B, max_pages]
  int64_t max_pages = 0;
  void* y_BHN = nullptr;  // bf16
  /// decode_attention_workspace() floats at a multiple of 16 bytes, zero before the first call;
  /// every call leaves them fit for the next, also for one of another B that needs no more of them.
  float* workspace = nullptr;
  int64_t B = 0, H = 0, K = 0, N = 0, page_size = 0;
  float scale = 0.0F;
  int splits = 1;  // blocks along a sequence; those that a sequence is too short for end at once
  /// May begin before its predecessor on the stream has ended. Lengths, page table, scales, RoPE's
  /// tables and all positions but a sequence's last must then have been written before the
  /// predecessor began and, if that is dependent too, before the first of such a chain; q_BHN,
  /// qkv_BO and the last position in the pages may come from any of them.
  bool dependent = false;
};

/// Blocks along a sequence that fill the device at once, no more than rounds that come out even
/// need.
int decode_attention_splits(int64_t B, int64_t K, int64_t max_length, int multiprocessors);
size_t decode_attention_workspace(int64_t B, int64_t H, int64_t N, int splits);
/// cudaErrorInvalidValue: N not 64 or 128, P no multiple of 16, H no multiple of K, splits
/// above 48, more than 2^25 positions of a sequence. A row's bits depend on the number of splits,
/// on no other row.
cudaError_t decode_attention(const DecodeAttentionArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
