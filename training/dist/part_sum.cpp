// part_sum.cpp — sums of parts in the order of their numbers, block by block so that a block stays
// in the cache while part after part is added to it.
#include "training/dist/part_sum.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace euromodal {

std::vector<int64_t> part_slots(const std::vector<int64_t>& ids) {
  const auto parts = static_cast<int64_t>(ids.size());
  std::vector<int64_t> slot_of(ids.size(), -1);
  for (int64_t slot = 0; slot < parts; ++slot) {
    const int64_t id = ids[slot];
    check<DistError>(id >= 0 && id < parts,
                     "ordered_sum: part {} of {} parts over all ranks: expected numbers 0..{}", id,
                     parts, parts - 1);
    check<DistError>(slot_of[id] < 0, "ordered_sum: part {} is given twice", id);
    slot_of[id] = slot;
  }
  return slot_of;
}

void sum_parts(const std::vector<const float*>& parts, int64_t count, float* out) {
  constexpr int64_t kBlock = 2048;
  std::array<float, kBlock> sum;  // apart from `out`, which may be one of the parts
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    if (parts.empty()) {
      std::fill_n(sum.data(), n, 0.0F);
    } else {
      std::copy_n(parts[0] + begin, n, sum.data());
    }
    for (size_t p = 1; p < parts.size(); ++p) {
      const float* part = parts[p] + begin;
      for (int64_t i = 0; i < n; ++i) sum[i] += part[i];
    }
    std::copy_n(sum.data(), n, out + begin);
  }
}

}  // namespace euromodal
