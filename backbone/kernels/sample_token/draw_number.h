// draw_number.h — Rng(seed).fork("sample", step).uniform() of core/rng.h on the device: XXH3 of 24
// bytes gives the key of the draw, Philox 4x32-10 the number.
#pragma once
#include <cstdint>

#include "backbone/kernels/cuda/launch.h"

namespace euromodal {

EM_DEVICE uint64_t multiply_fold(uint64_t a, uint64_t b) { return a * b ^ __umul64hi(a, b); }

/// In [0, 1).
EM_DEVICE double draw_number(uint64_t seed, uint64_t step) {
  constexpr uint64_t kName = 0x06a58212247c13bb;  // XXH3_64bits("sample")
  // XXH3_64bits of (seed, name, step): its path for 17 to 32 bytes with the default secret.
  uint64_t key = 24 * 0x9E3779B185EBCA87ULL +
                 multiply_fold(seed ^ 0xbe4ba423396cfeb8, kName ^ 0x1cad21f72c81017c) +
                 multiply_fold(kName ^ 0xdb979083e96dd4de, step ^ 0x1f67b3b7a4a44072);
  key = (key ^ (key >> 37)) * 0x165667919E3779F9ULL;
  key ^= key >> 32;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = 0, c1 = 0, c2 = 0, c3 = 0;  // the first block of the stream
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return static_cast<double>((uint64_t{c0} << 32 | c1) >> 11) * 0x1.0p-53;
}

}  // namespace euromodal
