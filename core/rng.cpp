// rng.cpp — Philox 4x32-10 and a Feistel permutation. Reference: Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011.
#include "core/rng.h"

#include <bit>
#include <cmath>
#include <numbers>

#include <xxhash.h>

#include "core/error.h"

namespace euromodal {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * counter[0], p1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

Rng Rng::fork(std::string_view name, uint64_t index) const {
  const uint64_t parts[3] = {key_, XXH3_64bits(name.data(), name.size()), index};
  return Rng(XXH3_64bits(parts, sizeof parts));
}

uint64_t Rng::u64() {
  const uint64_t c = counter_++;
  const auto w = philox4x32({static_cast<uint32_t>(c), static_cast<uint32_t>(c >> 32), 0, 0},
                            {static_cast<uint32_t>(key_), static_cast<uint32_t>(key_ >> 32)});
  return uint64_t{w[0]} << 32 | w[1];
}

double Rng::uniform() { return static_cast<double>(u64() >> 11) * 0x1.0p-53; }

int64_t Rng::below(int64_t n) {
  check(n > 0, "Rng::below: n is {}, expected above 0", n);
  const auto bound = static_cast<uint64_t>(n);
  const uint64_t limit =
      UINT64_MAX - UINT64_MAX % bound;  // reject the incomplete last stretch: no bias
  uint64_t draw = u64();
  while (draw >= limit) draw = u64();
  return static_cast<int64_t>(draw % bound);
}

double Rng::normal() {
  const double u = 1.0 - uniform(), v = uniform();  // u in (0, 1]
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

int64_t permuted(int64_t i, int64_t n, uint64_t key) {
  check(n > 0 && i >= 0 && i < n, "permuted: index {} is outside [0, {})", i, n);
  // A balanced Feistel network permutes [0, 4^h) >= n; walking the cycle until it lands below n
  // permutes [0, n).
  const int half = (std::bit_width(static_cast<uint64_t>(n - 1)) + 1) / 2 + (n == 1 ? 1 : 0);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  auto x = static_cast<uint64_t>(i);
  do {
    uint64_t left = x >> half, right = x & mask;
    for (uint32_t round = 0; round < 6; ++round) {
      const auto w =
          philox4x32({static_cast<uint32_t>(right), static_cast<uint32_t>(right >> 32), round, 1},
                     {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)});
      const uint64_t mixed = left ^ ((uint64_t{w[0]} << 32 | w[1]) & mask);
      left = right;
      right = mixed;
    }
    x = left << half | right;
  } while (x >= static_cast<uint64_t>(n));
  return static_cast<int64_t>(x);
}

}  // namespace euromodal
