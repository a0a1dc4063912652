// kv_cache.h — keys and values of one sequence, all layers. On the CPU in pages that copies share
// until one of them writes (a copy, a cut and a common beginning cost next to nothing); on other
// devices in one buffer a layer. L positions so far, K key/value heads, N head width.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/decode_attention/kv_layout.h"

namespace euromodal {

class KvCache {
 public:
  /// `options`: dtype (f32, bf16, f16; any off the CPU) and device of keys and values. `int8`:
  /// stored as codes with one f32 scale for each position and head; CPU only.
  KvCache(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim,
          const at::TensorOptions& options, bool int8 = false);
  KvCache(const KvCache&) = delete;  // clone() says what it costs
  KvCache& operator=(const KvCache&) = delete;
  KvCache(KvCache&&) noexcept = default;
  KvCache& operator=(KvCache&&) noexcept = default;

  /// Appends k_TKN, v_TKN [T, K, N] to a layer.
  void append(int64_t layer, const at::Tensor& k_TKN, const at::Tensor& v_TKN);
  /// For whoever writes rows of all layers by himself (paged): makes the pages of the next `rows`
  /// positions this cache's own, hands one out, and takes the rows as written.
  void reserve(int64_t rows) { make_room(length(), length() + rows); }
  uint8_t* own_page(int64_t page) { return held_.at(static_cast<size_t>(page)).get(); }
  void advance(int64_t rows);
  /// All L positions of a layer, contiguous [L, K, N] each: on the CPU a copy, elsewhere a view.
  std::pair<at::Tensor, at::Tensor> layer(int64_t layer) const;
  int64_t length() const { return lengths_.empty() ? 0 : lengths_.back(); }  // of the last layer
  int64_t length(int64_t layer) const { return lengths_.at(static_cast<size_t>(layer)); }
  void truncate(int64_t length);
  /// Pages are shared, what is behind them copied when one of the two writes there.
  KvCache clone() const;

  bool paged() const { return paged_; }
  const KvLayout& layout() const { return layout_; }
  std::span<const uint8_t* const> pages() const { return reads_; }  // the CPU's
  /// Bytes that this cache alone holds and bytes that it shares with copies.
  int64_t own_bytes() const;
  int64_t shared_bytes() const;

 private:
  std::shared_ptr<uint8_t> take_page();
  void make_room(int64_t begin, int64_t end);
  void grow(size_t layer, int64_t length);

  at::TensorOptions options_;
  bool paged_ = true;
  KvLayout layout_;
  std::vector<int64_t> lengths_;  // of each layer
  std::vector<std::shared_ptr<uint8_t>> held_;
  std::vector<std::shared_ptr<uint8_t>> spare_;  // made together with held ones, untouched
  std::vector<const uint8_t*> reads_;            // held_ as the kernels want it
  std::vector<std::pair<at::Tensor, at::Tensor>> buffers_;  // [room, K, N] a layer, when not paged
};

/// How a cache on the CPU holds keys and values of a model computed in `dtype`.
KvLayout kv_layout(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, at::ScalarType dtype,
                   bool int8);

}  // namespace euromodal
