// kv_cache.h — keys and values of one sequence, all layers. On the CPU, and in the store of a
// device decoder, in pages that copies share until one of them writes (a copy, a cut and a common
// beginning cost next to nothing); elsewhere in one buffer a layer. L positions so far, K key/value
// heads, N head width.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/decode_attention/kv_layout.h"

namespace euromodal {

/// A page of kPagePositions positions: memory of the CPU, or its number in a KvStore.
struct KvPage {
  uint8_t* host = nullptr;
  int64_t number = 0;
};

/// A device's memory for pages of many sequences (backbone/cuda/paged_cache.h).
class KvStore {
 public:
  virtual ~KvStore() = default;
  virtual const KvLayout& layout() const = 0;
  /// A page that goes back when nobody holds it any more; Error when there is none.
  virtual std::shared_ptr<KvPage> take() = 0;
  virtual int64_t free_pages() const = 0;
  virtual void copy(int64_t from, int64_t to) = 0;
  /// Rows k_TKN, v_TKN at positions [begin, begin + T) of a sequence in `pages`.
  virtual void write(int64_t layer, std::span<const int64_t> pages, int64_t begin,
                     const at::Tensor& k_TKN, const at::Tensor& v_TKN) = 0;
  /// The first `positions`, contiguous [L, K, N] each, in the dtype that models compute in.
  virtual std::pair<at::Tensor, at::Tensor> read(int64_t layer, std::span<const int64_t> pages,
                                                 int64_t positions) = 0;
};

class KvCache {
 public:
  /// `options`: dtype (f32, bf16, f16; any off the CPU) and device of keys and values. `int8`:
  /// stored as codes with one f32 scale for each position and head; CPU only.
  KvCache(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim,
          const at::TensorOptions& options, bool int8 = false);
  /// In pages of a store.
  explicit KvCache(std::shared_ptr<KvStore> store);
  KvCache(const KvCache&) = delete;  // clone() says what it costs
  KvCache& operator=(const KvCache&) = delete;
  KvCache(KvCache&&) noexcept = default;
  KvCache& operator=(KvCache&&) noexcept = default;

  /// Appends k_TKN, v_TKN [T, K, N] to a layer.
  void append(int64_t layer, const at::Tensor& k_TKN, const at::Tensor& v_TKN);
  /// For whoever writes rows of all layers by himself (paged): makes the pages of the next `rows`
  /// positions this cache's own, hands one out, and takes the rows as written.
  void reserve(int64_t rows) { make_room(length(), length() + rows); }
  int64_t pages_to_reserve(int64_t rows) const;  // that reserve() would take anew
  uint8_t* own_page(int64_t page) { return held_.at(static_cast<size_t>(page))->host; }
  void advance(int64_t rows);
  /// All L positions of a layer, contiguous [L, K, N] each: on the CPU a copy, elsewhere a view.
  std::pair<at::Tensor, at::Tensor> layer(int64_t layer) const;
  int64_t length() const { return lengths_.empty() ? 0 : lengths_.back(); }  // of the last layer
  int64_t length(int64_t layer) const { return lengths_.at(static_cast<size_t>(layer)); }
  void truncate(int64_t length);
  /// Pages are shared, what is behind them copied when one of the two writes there.
  KvCache clone() const;

  bool paged() const { return paged_; }
  const KvStore* store() const { return store_.get(); }  // null: the CPU's memory, or buffers
  const KvLayout& layout() const { return layout_; }
  std::span<const uint8_t* const> pages() const { return reads_; }  // the CPU's
  std::span<const int64_t> numbers() const { return numbers_; }     // of pages in a store
  std::span<const std::shared_ptr<KvPage>> held() const { return held_; }
  /// Bytes that this cache alone holds and bytes that it shares with copies.
  int64_t own_bytes() const;
  int64_t shared_bytes() const;

 private:
  std::shared_ptr<KvPage> take_page();
  void make_room(int64_t begin, int64_t end);
  void grow(size_t layer, int64_t length);

  at::TensorOptions options_;
  bool paged_ = true;
  KvLayout layout_;
  std::vector<int64_t> lengths_;    // of each layer
  std::shared_ptr<KvStore> store_;  // null: the CPU's memory
  std::vector<std::shared_ptr<KvPage>> held_;
  std::vector<std::shared_ptr<KvPage>> spare_;              // made with held ones, untouched
  std::vector<const uint8_t*> reads_;                       // held_ as the kernels want it
  std::vector<int64_t> numbers_;                            // the same of a store
  std::vector<std::pair<at::Tensor, at::Tensor>> buffers_;  // [room, K, N] a layer, when not paged
};

/// How a cache on the CPU holds keys and values of a model computed in `dtype`.
KvLayout kv_layout(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, at::ScalarType dtype,
                   bool int8);

}  // namespace euromodal
