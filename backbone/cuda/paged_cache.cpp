// paged_cache.cpp — see paged_cache.h.
#include "backbone/cuda/paged_cache.h"

#include <ATen/ATen.h>

#include "backbone/kernels/to_device.h"
#include "core/error.h"

namespace euromodal {

namespace {

int64_t pages_for(int64_t positions) {
  return (positions + PagedCache::kPage - 1) / PagedCache::kPage;
}

}  // namespace

PagedCache::PagedCache(const LlamaConfig& config, int64_t slots, int64_t max_positions,
                       int64_t tokens, at::ScalarType type, at::Device device)
    : type_(type), held_(static_cast<size_t>(slots)) {
  const int64_t pages = pages_for(tokens) + 1;
  const auto options = at::TensorOptions().device(device);
  storage_ = at::zeros({config.num_layers, 2, pages, config.num_kv_heads, kPage, config.head_dim},
                       options.dtype(type == at::kFloat8_e4m3fn ? at::kByte : type));
  table_SP_ = at::zeros({slots, pages_for(max_positions)}, options.dtype(at::kInt));
  for (int64_t page = pages - 1; page > 0; --page) free_.push_back(page);  // 0: nobody's
}

void PagedCache::reserve(int64_t slot, int64_t positions) {
  release(slot);
  auto& held = held_.at(static_cast<size_t>(slot));
  const int64_t wanted = pages_for(positions);
  check(wanted <= max_pages(), "a sequence of {} positions in slot {}, which holds {} at most",
        positions, slot, max_pages() * kPage);
  check(
      wanted <= static_cast<int64_t>(free_.size()),
      "the cache has room for {} more positions, a sequence needs {}; what to do: fewer sequences "
      "at once, or a larger cache",
      static_cast<int64_t>(free_.size()) * kPage, positions);
  held.assign(free_.end() - wanted, free_.end());
  free_.resize(free_.size() - static_cast<size_t>(wanted));
  std::vector<int64_t> row(static_cast<size_t>(max_pages()), 0);
  std::copy(held.begin(), held.end(), row.begin());
  table_SP_.select(0, slot).copy_(to_device(row, table_SP_.device()));
}

void PagedCache::release(int64_t slot) {
  auto& held = held_.at(static_cast<size_t>(slot));
  if (held.empty()) return;
  free_.insert(free_.end(), held.begin(), held.end());
  held.clear();
  table_SP_.select(0, slot).zero_();
}

void PagedCache::fill(int64_t slot, const KvCache& cache) {
  const auto& held = held_.at(static_cast<size_t>(slot));
  const int64_t whole = cache.length() / kPage, rest = cache.length() % kPage;
  const at::Tensor index_W = to_device({held.begin(), held.begin() + whole}, table_SP_.device());
  for (int64_t layer = 0; layer < storage_.size(0); ++layer) {
    const auto [k_LKN, v_LKN] = cache.layer(layer);
    for (const int64_t which : {0, 1}) {
      at::Tensor x_LKN = which == 0 ? k_LKN : v_LKN;
      if (type_ == at::kFloat8_e4m3fn)
        x_LKN = x_LKN.to(at::kFloat).clamp(-448.0, 448.0).to(at::kFloat8_e4m3fn).view(at::kByte);
      const at::Tensor pages = storage_.select(0, layer).select(0, which);
      if (whole > 0) {
        const at::Tensor x_WPKN = x_LKN.narrow(0, 0, whole * kPage).unflatten(0, {whole, kPage});
        pages.index_copy_(0, index_W, x_WPKN.transpose(1, 2));
      }
      if (rest > 0) {
        pages.select(0, held[static_cast<size_t>(whole)])
            .narrow(1, 0, rest)
            .copy_(x_LKN.narrow(0, whole * kPage, rest).transpose(0, 1));
      }
    }
  }
}

void* PagedCache::k_pages(int64_t layer) const {
  return storage_.select(0, layer).select(0, 0).data_ptr();
}
void* PagedCache::v_pages(int64_t layer) const {
  return storage_.select(0, layer).select(0, 1).data_ptr();
}
int64_t PagedCache::bytes() const { return static_cast<int64_t>(storage_.nbytes()); }

}  // namespace euromodal
