// mrope_axis.h — M-RoPE (Qwen2-VL, arXiv:2409.12191): a row has three positions (time, height,
// width), and each frequency turns by one of them. Host and device, no torch.
#pragma once
#include <cstdint>

namespace euromodal {

/// Frequencies of each position; they add up to half the head width.
struct MropeSections {
  int64_t sizes[3] = {0, 0, 0};
  /// One section after the other (Qwen2-VL), or interleaved (Qwen3-VL): 1, 4, 7, ... height, 2, 5,
  /// 8, ... width, the rest time.
  bool interleaved = false;
};

/// Which of the three positions frequency i turns by.
constexpr int mrope_axis(const MropeSections& sections, int64_t i) {
  if (sections.interleaved) {
    if (i % 3 == 1 && i < 3 * sections.sizes[1]) return 1;
    if (i % 3 == 2 && i < 3 * sections.sizes[2]) return 2;
    return 0;
  }
  if (i < sections.sizes[0]) return 0;
  return i < sections.sizes[0] + sections.sizes[1] ? 1 : 2;
}

}  // namespace euromodal
