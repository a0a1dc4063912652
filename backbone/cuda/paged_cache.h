// paged_cache.h — keys and values of all layers in pages of a device: the store behind the KvCaches
// of a device decoder, and the table that says which slot reads which pages. S slots, K key/value
// heads, P positions a page, N head width.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kv_cache.h"
#include "backbone/llama_config.h"

namespace euromodal {

class PagedCache final : public KvStore {
 public:
  static constexpr int64_t kPage = kPagePositions;

  /// Pages for `tokens` positions and one more, which the table gives to slots without a sequence.
  /// `type`: bf16 or float8_e4m3fn; whoever attends sees what is stored, be it rounded.
  PagedCache(const LlamaConfig& config, int64_t slots, int64_t max_positions, int64_t tokens,
             at::ScalarType type, at::Device device);

  const KvLayout& layout() const override { return layout_; }
  std::shared_ptr<KvPage> take() override;
  int64_t free_pages() const override { return static_cast<int64_t>(free_->size()); }
  void copy(int64_t from, int64_t to) override;
  void write(int64_t layer, std::span<const int64_t> pages, int64_t begin, const at::Tensor& k_TKN,
             const at::Tensor& v_TKN) override;
  std::pair<at::Tensor, at::Tensor> read(int64_t layer, std::span<const int64_t> pages,
                                         int64_t positions) override;

  /// From now on the slot's rows are in these pages; none: it has no sequence. Error for more than
  /// max_pages().
  void set_slot(int64_t slot, std::span<const int64_t> pages);

  void* k_pages(int64_t layer) const;  // [pages, K, P, N]
  void* v_pages(int64_t layer) const;
  const at::Tensor& table() const { return table_SP_; }  // [S, max_pages] i32 on the device
  int64_t max_pages() const { return table_SP_.size(1); }
  int64_t bytes() const;

 private:
  at::Tensor pages_of(int64_t layer, int64_t which) const;

  // Where rows of a sequence lie, uploaded once for all layers of a pass.
  struct Rows {
    std::vector<int64_t> pages;
    int64_t begin, count;
    at::Tensor page_T, offset_T;
  };
  const Rows& rows_of(std::deque<Rows>& known, std::span<const int64_t> pages, int64_t begin,
                      int64_t count, bool by_row) const;

  at::ScalarType type_;
  KvLayout layout_;
  at::Tensor storage_;  // [layers, 2, pages, K, P, N]
  at::Tensor table_SP_;
  std::shared_ptr<std::vector<int64_t>> free_;  // pages may outlive this
  std::deque<Rows> written_, read_;             // the last ones first
};

}  // namespace euromodal
