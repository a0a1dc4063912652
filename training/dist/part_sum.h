// part_sum.h — the order of sums that every implementation of ordered_sum shares.
#pragma once
#include <cstdint>
#include <vector>

namespace euromodal {

/// DistError unless `ids` (of all ranks, in any order) are 0..P-1 once each. Returns slot_of[p]:
/// where part p stands in `ids`.
std::vector<int64_t> part_slots(const std::vector<int64_t>& ids);

/// out[i] = ((parts[0][i] + parts[1][i]) + parts[2][i]) + ... for i < count; no part: zeros. `out`
/// may be one of the parts.
void sum_parts(const std::vector<const float*>& parts, int64_t count, float* out);

}  // namespace euromodal
