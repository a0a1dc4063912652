// paged_cache.h — keys and values of all layers in pages, and which slot holds which pages. S
// slots, K key/value heads, P positions a page, N head width.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kv_cache.h"
#include "backbone/llama_config.h"

namespace euromodal {

class PagedCache {
 public:
  static constexpr int64_t kPage = 64;

  /// Pages for `tokens` positions and one more, which slots without a sequence write to.
  PagedCache(const LlamaConfig& config, int64_t slots, int64_t max_positions, int64_t tokens,
             at::ScalarType type, at::Device device);

  /// Gives the slot pages for `positions`; Error when too few are left.
  void reserve(int64_t slot, int64_t positions);
  void release(int64_t slot);
  /// Copies all positions of a contiguous cache into the slot's pages.
  void fill(int64_t slot, const KvCache& cache);

  void* k_pages(int64_t layer) const;  // [pages, K, P, N]
  void* v_pages(int64_t layer) const;
  const at::Tensor& table() const { return table_SP_; }  // [S, max_pages] i32 on the device
  int64_t max_pages() const { return table_SP_.size(1); }
  at::ScalarType type() const { return type_; }
  int64_t bytes() const;

 private:
  at::ScalarType type_;
  at::Tensor storage_;  // [layers, 2, pages, K, P, N]
  at::Tensor table_SP_;
  std::vector<int64_t> free_;
  std::vector<std::vector<int64_t>> held_;
};

}  // namespace euromodal
