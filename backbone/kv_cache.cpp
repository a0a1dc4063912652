// kv_cache.cpp — see kv_cache.h. A page holds all layers, megabytes in a real model, so that it
// lies in huge pages of the machine; a buffer off the CPU doubles when full.
#include "backbone/kv_cache.h"

#include <algorithm>
#include <cstdlib>

#include <ATen/ATen.h>
#include <sys/mman.h>

#include "backbone/kernels/decode_attention/kv_rows.h"
#include "core/error.h"

namespace euromodal {

namespace {

constexpr int64_t kHuge = int64_t{2} << 20, kMostPages = 8;

int64_t in_huge(int64_t bytes) { return (bytes + kHuge - 1) / kHuge * kHuge; }

/// Pages made at once: few that fill huge pages of the machine but for a 32nd.
int64_t pages_at_once(int64_t page) {
  if (page < kHuge) return 1;
  int64_t count = 1;
  while (count < kMostPages && in_huge(count * page) - count * page > count * page / 32) ++count;
  return count;
}

/// Pages beside each other, the last one first; the memory goes with the last of them.
std::vector<std::shared_ptr<KvPage>> new_pages(const KvLayout& layout) {
  const int64_t page = layout.page_bytes(), count = pages_at_once(page);
  const bool huge = page >= kHuge;
  const int64_t bytes = huge ? in_huge(count * page) : page;
  void* data = nullptr;
  check(::posix_memalign(&data, huge ? kHuge : 64, static_cast<size_t>(bytes)) == 0,
        "no memory for {} more bytes of keys and values; shorten the prompt or lower "
        "--max-new-tokens",
        bytes);
  if (huge) ::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a wish
  const std::shared_ptr<uint8_t> all(static_cast<uint8_t*>(data), std::free);
  std::vector<std::shared_ptr<KvPage>> out;
  for (int64_t i = count - 1; i >= 0; --i)  // each counts its own users
    out.emplace_back(new KvPage{all.get() + i * page, 0}, [all](KvPage* one) { delete one; });
  return out;
}

}  // namespace

KvLayout kv_layout(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, at::ScalarType dtype,
                   bool int8) {
  return {int8 ? KvType::kInt8 : kv_type_of(dtype), num_layers, num_kv_heads, head_dim};
}

KvCache::KvCache(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim,
                 const at::TensorOptions& options, bool int8)
    : options_(options.requires_grad(false)),
      paged_(options.device().is_cpu()),
      lengths_(static_cast<size_t>(num_layers), 0) {
  check(paged_ || !int8, "an int8 cache of keys and values needs --device cpu, got {}",
        options.device().str());
  const at::ScalarType dtype = c10::typeMetaToScalarType(options.dtype());
  if (paged_) {
    layout_ = kv_layout(num_layers, num_kv_heads, head_dim, dtype, int8);
    return;
  }
  for (int64_t layer = 0; layer < num_layers; ++layer)
    buffers_.emplace_back(at::empty({0, num_kv_heads, head_dim}, options_),
                          at::empty({0, num_kv_heads, head_dim}, options_));
}

KvCache::KvCache(std::shared_ptr<KvStore> store)
    : layout_(store->layout()),
      lengths_(static_cast<size_t>(layout_.layers), 0),
      store_(std::move(store)) {}

std::shared_ptr<KvPage> KvCache::take_page() {
  if (store_) return store_->take();
  if (spare_.empty()) spare_ = new_pages(layout_);
  std::shared_ptr<KvPage> out = std::move(spare_.back());
  spare_.pop_back();
  return out;
}

/// Positions [begin, end) of all layers lie in pages that nobody else reads.
void KvCache::make_room(int64_t begin, int64_t end) {
  for (auto p = static_cast<size_t>(begin / kPagePositions); p < static_cast<size_t>(kv_pages(end));
       ++p) {
    if (p == held_.size()) {
      held_.push_back(take_page());
    } else if (held_[p].use_count() > 1) {
      std::shared_ptr<KvPage> page = take_page();
      const int64_t longest = *std::max_element(lengths_.begin(), lengths_.end()),
                    used = longest - static_cast<int64_t>(p) * kPagePositions;
      if (store_) {
        if (used > 0) store_->copy(held_[p]->number, page->number);
      } else {
        copy_kv_page(layout_, held_[p]->host, page->host,
                     std::clamp<int64_t>(used, 0, kPagePositions));
      }
      held_[p] = std::move(page);
    } else {
      continue;
    }
    reads_.resize(held_.size());
    reads_[p] = held_[p]->host;
    numbers_.resize(held_.size());
    numbers_[p] = held_[p]->number;
  }
}

int64_t KvCache::pages_to_reserve(int64_t rows) const {
  const int64_t begin = length(), there = static_cast<int64_t>(held_.size());
  int64_t out = std::max<int64_t>(0, kv_pages(begin + rows) - there);
  for (int64_t p = begin / kPagePositions; p < std::min(kv_pages(begin + rows), there); ++p)
    out += held_[static_cast<size_t>(p)].use_count() > 1;
  return out;
}

void KvCache::grow(size_t layer, int64_t length) {
  for (at::Tensor* buffer : {&buffers_[layer].first, &buffers_[layer].second}) {
    const int64_t room = std::max({length, 2 * buffer->size(0), int64_t{64}});
    at::Tensor grown = at::empty({room, buffer->size(1), buffer->size(2)}, options_);
    grown.narrow(0, 0, lengths_[layer]).copy_(buffer->narrow(0, 0, lengths_[layer]));
    *buffer = std::move(grown);
  }
}

void KvCache::append(int64_t index, const at::Tensor& k_TKN, const at::Tensor& v_TKN) {
  const auto layer = static_cast<size_t>(index);
  const int64_t begin = length(index), end = begin + k_TKN.size(0);
  if (store_) {
    make_room(begin, end);
    store_->write(index, numbers_, begin, k_TKN, v_TKN);
  } else if (paged_) {
    make_room(begin, end);
    std::vector<uint8_t*> pages;
    for (const auto& page : held_) pages.push_back(page->host);
    store_kv_rows(layout_, index, pages, begin, k_TKN, v_TKN);
  } else {
    if (end > buffers_[layer].first.size(0)) grow(layer, end);
    buffers_[layer].first.narrow(0, begin, end - begin).copy_(k_TKN);
    buffers_[layer].second.narrow(0, begin, end - begin).copy_(v_TKN);
  }
  lengths_[layer] = end;
}

void KvCache::advance(int64_t rows) {
  for (int64_t& layer : lengths_) layer += rows;
}

std::pair<at::Tensor, at::Tensor> KvCache::layer(int64_t index) const {
  const int64_t positions = length(index);
  if (store_) return store_->read(index, numbers_, positions);
  if (paged_)
    return load_kv_rows(layout_, index, reads_, positions,
                        c10::typeMetaToScalarType(options_.dtype()));
  const auto& [k, v] = buffers_[static_cast<size_t>(index)];
  return {k.narrow(0, 0, positions), v.narrow(0, 0, positions)};
}

void KvCache::truncate(int64_t length) {
  for (int64_t& layer : lengths_) {
    check(length >= 0 && length <= layer, "KvCache: cannot cut {} positions to {}", layer, length);
    layer = length;
  }
  const auto pages = static_cast<size_t>(kv_pages(length));
  if (held_.size() > pages) {
    held_.resize(pages);
    reads_.resize(pages);
    numbers_.resize(pages);
  }
}

KvCache KvCache::clone() const {
  KvCache out(0, layout_.kv_heads, layout_.head_dim, options_);
  out.layout_ = layout_;
  out.lengths_ = lengths_;
  out.store_ = store_;
  out.held_ = held_;
  out.reads_ = reads_;
  out.numbers_ = numbers_;
  for (const auto& [k, v] : buffers_) out.buffers_.emplace_back(k.clone(), v.clone());
  return out;
}

int64_t KvCache::own_bytes() const {
  int64_t out = 0;
  for (const auto& page : held_) out += page.use_count() == 1 ? layout_.page_bytes() : 0;
  for (const auto& [k, v] : buffers_) out += static_cast<int64_t>(k.nbytes() + v.nbytes());
  return out;
}

int64_t KvCache::shared_bytes() const {
  int64_t out = 0;
  for (const auto& page : held_) out += page.use_count() > 1 ? layout_.page_bytes() : 0;
  return out;
}

}  // namespace euromodal
