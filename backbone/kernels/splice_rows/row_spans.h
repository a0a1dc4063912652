// row_spans.h — runs of rows that take the place of others. Host and device, 64 bits, no torch.
#pragma once
#include <cstdint>

namespace euromodal {

/// S runs in ascending order without overlap, as one array [3, S]: where each starts, where it ends
/// and how many rows the runs before it have.
struct RowSpans {
  const int64_t* table_3S;
  int64_t count;

  constexpr int64_t start(int64_t s) const { return table_3S[s]; }
  constexpr int64_t end(int64_t s) const { return table_3S[count + s]; }
  constexpr int64_t before(int64_t s) const { return table_3S[2 * count + s]; }

  /// Number of row t among the rows of all runs; -1 outside them.
  constexpr int64_t find(int64_t t) const {
    int64_t low = 0, high = count;  // the first run that starts behind t
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (start(middle) <= t)
        low = middle + 1;
      else
        high = middle;
    }
    return low > 0 && t < end(low - 1) ? before(low - 1) + t - start(low - 1) : -1;
  }
};

}  // namespace euromodal
