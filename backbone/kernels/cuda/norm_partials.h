// norm_partials.h — the scratch that sums of weight gradients over rows need (norm_rows.h).
#pragma once
#include <cstdint>

namespace euromodal {

/// Rows of partial sums: [kNormPartials, D] f32 for each of weight and bias.
constexpr int64_t kNormPartials = 256;

}  // namespace euromodal
