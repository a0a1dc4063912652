// largest_size.h — the number that codes of a row are scaled by.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

namespace euromodal {

/// The largest size of N numbers, NaN where one of them is not finite; 0 for none.
template <typename T>
[[gnu::always_inline]] inline float largest_size(const T* x, int64_t N) {
  float largest = 0.0F;
  int32_t infinite = 0;
#pragma omp simd reduction(max : largest) reduction(| : infinite)
  for (int64_t n = 0; n < N; ++n) {
    const float size = std::fabs(static_cast<float>(x[n]));
    largest = size > largest ? size : largest;
    infinite |= size <= std::numeric_limits<float>::max() ? 0 : 1;  // also NaN
  }
  return infinite != 0 ? std::numeric_limits<float>::quiet_NaN() : largest;
}

}  // namespace euromodal
