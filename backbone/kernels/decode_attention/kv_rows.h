// kv_rows.h — rows of keys and values in and out of pages. T new rows, L positions, K key/value
// heads, N head width.
#pragma once
#include <span>
#include <utility>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/decode_attention/kv_layout.h"

namespace euromodal {

/// The form in which a cache keeps rows of `dtype` as they are. Error for dtypes without one.
KvType kv_type_of(at::ScalarType dtype);

/// k_TKN, v_TKN [T, K, N] (f32, bf16 or f16) -> positions [begin, begin + T) of one layer. kInt8
/// rounds to the nearest code; a row that is not finite comes back as NaN. Other forms must be the
/// dtype's own.
void store_kv_rows(const KvLayout& layout, int64_t layer, std::span<uint8_t* const> pages,
                   int64_t begin, const at::Tensor& k_TKN, const at::Tensor& v_TKN);

/// The same for one position of one head, k_N and v_N [N] each; T: float, BFloat16 or Half, that of
/// the layout unless it is kInt8.
template <typename T>
void store_kv_row(const KvLayout& layout, int64_t layer, int64_t head, uint8_t* page, int64_t at,
                  const T* k_N, const T* v_N);

/// All positions below `length` of one layer -> [L, K, N] each, contiguous, in `dtype`.
std::pair<at::Tensor, at::Tensor> load_kv_rows(const KvLayout& layout, int64_t layer,
                                               std::span<const uint8_t* const> pages,
                                               int64_t length, at::ScalarType dtype);

/// The first positions of a page, all layers.
void copy_kv_page(const KvLayout& layout, const uint8_t* from, uint8_t* to, int64_t positions);

}  // namespace euromodal
