// limits.h — bounds on what is decoded, so that a small malicious file cannot exhaust the memory.
#pragma once
#include <cstdint>
#include <string>

#include "core/error.h"

namespace euromodal {

inline constexpr int64_t kMaxPixels = 100'000'000;
inline constexpr int64_t kMaxClipBytes = int64_t{4} << 30;

/// DataError naming the source when a picture of this size may not be decoded.
inline void check_pixels(const std::string& name, int64_t height, int64_t width) {
  check<DataError>(height > 0 && width > 0, "{}: a picture of {}x{} pixels", name, height, width);
  check<DataError>(width <= kMaxPixels / height,
                   "{}: a picture of {}x{} pixels is above the limit of {}", name, height, width,
                   kMaxPixels);
}

}  // namespace euromodal
