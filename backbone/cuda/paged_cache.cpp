// paged_cache.cpp — see paged_cache.h.
#include "backbone/cuda/paged_cache.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "backbone/kernels/to_device.h"
#include "core/error.h"

namespace euromodal {

PagedCache::PagedCache(const LlamaConfig& config, int64_t slots, int64_t max_positions,
                       int64_t tokens, at::ScalarType type, at::Device device)
    : type_(type),
      layout_{type == at::kFloat8_e4m3fn ? KvType::kFloat8 : KvType::kBf16, config.num_layers,
              config.num_kv_heads, config.head_dim},
      free_(std::make_shared<std::vector<int64_t>>()) {
  const int64_t pages = kv_pages(tokens) + 1;
  const auto options = at::TensorOptions().device(device);
  storage_ = at::zeros({config.num_layers, 2, pages, config.num_kv_heads, kPage, config.head_dim},
                       options.dtype(type == at::kFloat8_e4m3fn ? at::kByte : type));
  table_SP_ = at::zeros({slots, kv_pages(max_positions)}, options.dtype(at::kInt));
  for (int64_t page = pages - 1; page > 0; --page) free_->push_back(page);  // 0: nobody's
}

std::shared_ptr<KvPage> PagedCache::take() {
  check(!free_->empty(),
        "the cache of keys and values on the device is full ({} positions); what to do: shorter "
        "prompts or answers, fewer sequences at once, or a larger cache",
        (storage_.size(2) - 1) * kPage);
  const int64_t number = free_->back();
  free_->pop_back();
  return {new KvPage{nullptr, number}, [free = free_](KvPage* page) {
            free->push_back(page->number);
            delete page;
          }};
}

at::Tensor PagedCache::pages_of(int64_t layer, int64_t which) const {
  return storage_.select(0, layer).select(0, which);
}

void PagedCache::copy(int64_t from, int64_t to) {
  storage_.select(2, to).copy_(storage_.select(2, from));
}

const PagedCache::Rows& PagedCache::rows_of(std::deque<Rows>& known, std::span<const int64_t> pages,
                                            int64_t begin, int64_t count, bool by_row) const {
  constexpr size_t kSequences = 64;  // of a pass
  for (const Rows& rows : known) {
    if (rows.begin == begin && rows.count == count &&
        std::equal(pages.begin(), pages.end(), rows.pages.begin(), rows.pages.end()))
      return rows;
  }
  if (known.size() == kSequences) known.pop_back();
  Rows& out = known.emplace_front(Rows{{pages.begin(), pages.end()}, begin, count, {}, {}});
  if (!by_row) {
    out.page_T = to_device(out.pages, storage_.device());
    return out;
  }
  std::vector<int64_t> page_T, offset_T;
  for (int64_t p = begin; p < begin + count; ++p) {
    page_T.push_back(pages[static_cast<size_t>(p / kPage)]);
    offset_T.push_back(p % kPage);
  }
  out.page_T = to_device(page_T, storage_.device());
  out.offset_T = to_device(offset_T, storage_.device());
  return out;
}

void PagedCache::write(int64_t layer, std::span<const int64_t> pages, int64_t begin,
                       const at::Tensor& k_TKN, const at::Tensor& v_TKN) {
  const Rows& rows = rows_of(written_, pages, begin, k_TKN.size(0), /*by_row=*/true);
  for (const int64_t which : {0, 1}) {
    at::Tensor x_TKN = which == 0 ? k_TKN : v_TKN;
    if (type_ == at::kFloat8_e4m3fn)
      x_TKN = x_TKN.to(at::kFloat).clamp(-448.0, 448.0).to(type_).view(at::kByte);
    pages_of(layer, which).transpose(1, 2).index_put_({rows.page_T, rows.offset_T}, x_TKN);
  }
}

std::pair<at::Tensor, at::Tensor> PagedCache::read(int64_t layer, std::span<const int64_t> pages,
                                                   int64_t positions) {
  const Rows& rows = rows_of(read_, pages.first(static_cast<size_t>(kv_pages(positions))), 0,
                             positions, /*by_row=*/false);
  const auto read = [&](int64_t which) {
    at::Tensor x_WKPN = pages_of(layer, which).index_select(0, rows.page_T);
    if (type_ == at::kFloat8_e4m3fn) x_WKPN = x_WKPN.view(type_).to(at::kBFloat16);
    return x_WKPN.transpose(1, 2).flatten(0, 1).narrow(0, 0, positions);
  };
  return {read(0), read(1)};
}

void PagedCache::set_slot(int64_t slot, std::span<const int64_t> pages) {
  check(static_cast<int64_t>(pages.size()) <= max_pages(),
        "a sequence of {} positions in slot {}, which holds {} at most",
        static_cast<int64_t>(pages.size()) * kPage, slot, max_pages() * kPage);
  std::vector<int64_t> row(static_cast<size_t>(max_pages()), 0);
  std::copy(pages.begin(), pages.end(), row.begin());
  table_SP_.select(0, slot).copy_(to_device(row, table_SP_.device()));
}

void* PagedCache::k_pages(int64_t layer) const { return pages_of(layer, 0).data_ptr(); }
void* PagedCache::v_pages(int64_t layer) const { return pages_of(layer, 1).data_ptr(); }
int64_t PagedCache::bytes() const { return static_cast<int64_t>(storage_.nbytes()); }

}  // namespace euromodal
