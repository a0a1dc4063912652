// rng.h — counter-based randomness (Philox 4x32-10, Salmon et al. 2011). A stream is a pure
// function of its key, so draws depend on (seed, name, index) alone and never on the order in which
// samples, ranks or threads ask.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace euromodal {

/// One block of Philox 4x32-10: four 32-bit words of (counter, key).
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

class Rng {
 public:
  explicit Rng(uint64_t seed) : key_(seed) {}
  /// An independent stream: fork("specaugment", sample_index).
  Rng fork(std::string_view name, uint64_t index = 0) const;
  uint64_t u64();
  double uniform();  // [0, 1)
  double uniform(double lo, double hi) { return lo + (hi - lo) * uniform(); }
  int64_t below(int64_t n);  // [0, n), unbiased
  double normal();           // N(0, 1), Box-Muller
  uint64_t key() const { return key_; }

 private:
  uint64_t key_, counter_ = 0;
};

/// The i-th entry of a permutation of [0, n) chosen by `key`: O(1) memory (Feistel network with
/// cycle walking), so that a sampler can jump anywhere.
int64_t permuted(int64_t i, int64_t n, uint64_t key);

}  // namespace euromodal
