// exact_exp.h — the exponential of a float as the GNU C library computes it: in double, by a table
// of 32 powers of two and a cubic (Szabolcs Nagy, ARM optimized routines, expf). Device and host
// draw the same tokens only where they weigh them the same. Eight operations in double.
#pragma once
#include <cstdint>
#include <cstring>

#include "backbone/kernels/cuda/launch.h"

namespace euromodal {

constexpr int kExpTableSize = 32;

/// Entry i: the bits of 2^(i/32), less i << 47.
__constant__ const uint64_t kExpTable[kExpTableSize] = {
    0x3ff0000000000000, 0x3fefd9b0d3158574, 0x3fefb5586cf9890f, 0x3fef9301d0125b51,
    0x3fef72b83c7d517b, 0x3fef54873168b9aa, 0x3fef387a6e756238, 0x3fef1e9df51fdee1,
    0x3fef06fe0a31b715, 0x3feef1a7373aa9cb, 0x3feedea64c123422, 0x3feece086061892d,
    0x3feebfdad5362a27, 0x3feeb42b569d4f82, 0x3feeab07dd485429, 0x3feea47eb03a5585,
    0x3feea09e667f3bcd, 0x3fee9f75e8ec5f74, 0x3feea11473eb0187, 0x3feea589994cce13,
    0x3feeace5422aa0db, 0x3feeb737b0cdc5e5, 0x3feec49182a3f090, 0x3feed503b23e255d,
    0x3feee89f995ad3ad, 0x3feeff76f2fb5e47, 0x3fef199bdd85529c, 0x3fef3720dcef9069,
    0x3fef5818dcfba487, 0x3fef7c97337b9b5f, 0x3fefa4afa2a490da, 0x3fefd0765b6e4540};

/// exp(x) for x <= 0; `table`: kExpTable, best in shared memory.
EM_DEVICE float exact_exp(float x, const uint64_t* table) {
  constexpr double kScale = 0x1.71547652b82fep+0 * kExpTableSize, kShift = 0x1.8p+52;
  constexpr double kC0 = 0x1.c6af84b912394p-5 / kExpTableSize / kExpTableSize / kExpTableSize,
                   kC1 = 0x1.ebfce50fac4f3p-3 / kExpTableSize / kExpTableSize,
                   kC2 = 0x1.62e42ff0c52d6p-1 / kExpTableSize;
  if (x < -0x1.9fe368p6F) return 0.0F;  // below half of the least number; minus infinity too
  const double z = kScale * static_cast<double>(x);
  double k = z + kShift;  // rounds to a whole number, in the low bits
  uint64_t bits = 0;
  memcpy(&bits, &k, 8);
  k -= kShift;
  const double r = z - k;
  const uint64_t power = table[bits % kExpTableSize] + (bits << 47);
  double s = 0.0;
  memcpy(&s, &power, 8);
  const double high = kC0 * r + kC1, low = kC2 * r + 1.0;
  return static_cast<float>((high * (r * r) + low) * s);
}

}  // namespace euromodal
