// segments.h — where one sample ends and the next begins in rows that are packed one after the
// other (host side).
//
// Packed rows: x_TD holds the rows of sample s in [cu[s], cu[s+1]). Ops whose result for a row
// depends only on that row ignore it; attention stays inside a sample. With `per_sample` set
// (deterministic mode) ops that SUM over rows (weight gradients) sum sample by sample, in sample
// order, and matrix products run sample by sample, so that packed and unpacked rows give the same
// bits.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

namespace euromodal {

struct Segments {
  std::vector<int64_t> cu;  // [S+1], cu[0] = 0, ascending
  bool per_sample = false;
  int64_t count() const { return static_cast<int64_t>(cu.size()) - 1; }
  int64_t rows() const { return cu.back(); }
  int64_t begin(int64_t s) const { return cu[s]; }
  int64_t length(int64_t s) const { return cu[s + 1] - cu[s]; }
  static Segments one(int64_t rows) { return {{0, rows}, false}; }
  static Segments from_lengths(const std::vector<int64_t>& lengths, bool per_sample = false) {
    Segments out{{0}, per_sample};
    for (int64_t n : lengths) out.cu.push_back(out.cu.back() + n);
    return out;
  }
};

}  // namespace euromodal
