// frame_plan.h — which frames of a clip are taken.
#pragma once
#include <cstdint>
#include <vector>

namespace euromodal {

/// `count` indices spread uniformly over `total` frames: floor(i · total / count), as transformers'
/// video processors do; all of them when there are exactly as many; a shorter clip repeats frames.
/// count 0: every frame.
inline std::vector<int64_t> plan_frames(int64_t total, int64_t count) {
  std::vector<int64_t> plan;
  const int64_t n = count == 0 ? total : count;
  plan.reserve(static_cast<size_t>(n));
  // total below 2^40 and n below 2^13: no overflow. count 0 has i · total / total = i.
  for (int64_t i = 0; i < n; ++i) plan.push_back(count == 0 ? i : i * total / n);
  return plan;
}

}  // namespace euromodal
