// dft_table.h — cosines and sines of a discrete Fourier transform of N real points, for
// log_mel_kernel.h.
#pragma once
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

namespace euromodal {

/// [N / 2 + 1, N / 2 + 1, 2]: cos and sin of 2 pi n k / N; computed in double from n k mod N.
inline std::vector<float> dft_table(int64_t points) {
  const int64_t bins = points / 2 + 1;
  std::vector<float> out;
  out.reserve(static_cast<size_t>(2 * bins * bins));
  for (int64_t n = 0; n < bins; ++n) {
    for (int64_t k = 0; k < bins; ++k) {
      const double angle = 2.0 * std::numbers::pi * static_cast<double>(n * k % points) /
                           static_cast<double>(points);
      out.push_back(static_cast<float>(std::cos(angle)));
      out.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return out;
}

}  // namespace euromodal
