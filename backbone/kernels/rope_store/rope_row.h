// rope_row.h — what becomes of a step's numbers on their way into a cache: RoPE, rounded as rope()
// rounds, and the codes of the cache. For rope_store and decode_attention, which give the same
// bits.
#pragma once
#include "backbone/kernels/cuda/device.h"

namespace euromodal {

/// As a pair, whose upper half is the bits of a float: one instruction.
EM_DEVICE float round_bf16(float v) { return __uint_as_float(pack_bf16x2(0.0F, v)); }

struct RotatedPair {
  float low, high;  // not yet rounded
};

/// Numbers n and n + N / 2 of a head; tables and products are rounded to bf16.
EM_DEVICE RotatedPair rotate_pair(float first, float second, float cos, float sin) {
  const float c = round_bf16(cos), s = round_bf16(sin);
  return {__fsub_rn(round_bf16(first * c), round_bf16(second * s)),
          __fadd_rn(round_bf16(second * c), round_bf16(first * s))};
}

/// In a cache of fp8; saturates.
EM_DEVICE unsigned char fp8_code(float v, float scale) {
  return __nv_cvt_float_to_fp8(v / scale, __NV_SATFINITE, __NV_E4M3);
}

}  // namespace euromodal
