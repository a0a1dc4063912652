// widen.h — codes to bf16 pairs in registers: the weight formats of skinny_linear. 16 bytes of a
// unit in a lane (skinny_layout.h) become the A fragments of `kSteps` tensor core steps; an octet's
// elements stand in them in the order `place`, and so they do in x.
#pragma once
#include "backbone/kernels/cuda/device.h"

namespace euromodal {

EM_DEVICE uint32_t subtract_bf16x2(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  uint32_t out;
  asm("{ .reg .b32 m; mov.b32 m, 0xbf80bf80; fma.rn.bf16x2 %0, %2, m, %1; }"
      : "=r"(out)
      : "r"(a), "r"(b));
  return out;
#else
  return pack_bf16x2(low_of_bf16x2(a) - low_of_bf16x2(b), high_of_bf16x2(a) - high_of_bf16x2(b));
#endif
}

/// Times 2^120, exact.
EM_DEVICE uint32_t raise_bf16x2(uint32_t a) { return multiply_bf16x2(a, 0x7b807b80U); }

struct WidenBf16 {
  static constexpr int kElements = 8;  // in 16 bytes
  static constexpr int kSteps = 2;     // of 16 k over 4 lanes
  static constexpr int kGroup = 0;     // inputs that share a scale; 0: no groups
  /// Where element e of an octet stands.
  EM_HOST_DEVICE static int place(int e) { return e; }
  /// a0 and a2 of step s.
  EM_DEVICE static void step(const uint4& w, int s, uint32_t /*zero*/, uint32_t& low,
                             uint32_t& high) {
    low = s == 0 ? w.x : w.z;
    high = s == 0 ? w.y : w.w;
  }
};

EM_DEVICE float half_bits_to_float(uint32_t bits) {
  __half_raw raw;
  raw.x = static_cast<unsigned short>(bits);
  return to_float(__half(raw));
}

EM_DEVICE uint32_t word_of(const uint4& w, int i) {
  return i == 0 ? w.x : i == 1 ? w.y : i == 2 ? w.z : w.w;
}

/// Bytes 0 and 2 of a word make the first pair, 1 and 3 the second.
EM_HOST_DEVICE int place_bytes(int e) {
  const int in = e % 4;
  return e - in + (in == 1 ? 2 : in == 2 ? 1 : in);
}

/// kGroup inputs share a scale and, with kZeros, a zero point.
template <int kGroupInputs, bool kWithZeros>
struct WidenInt8 {
  static constexpr int kElements = 16, kSteps = 4;
  static constexpr int kGroup = kGroupInputs;
  static constexpr bool kZeros = kWithZeros;
  static constexpr uint32_t kMiddle = 0;
  EM_HOST_DEVICE static int place(int e) { return place_bytes(e); }
  /// The zero point (i8) twice, bf16.
  EM_DEVICE static uint32_t zero_pair(uint32_t zero) {
    const auto code = static_cast<signed char>(zero);
    const uint32_t bits = __float_as_uint(static_cast<float>(code)) >> 16;
    return bits | (bits << 16);
  }
  // 0x4300 is 128: or-ing the lower seven bits adds them; 128 | 0x80 is 256, what the sign takes
  // off.
  EM_DEVICE static uint32_t pair(uint32_t v, uint32_t zero) {
    const uint32_t code =
        subtract_bf16x2(and_or(v, 0x007f007fU, 0x43004300U), and_or(v, 0x00800080U, 0x43004300U));
    return kZeros ? subtract_bf16x2(code, zero) : code;
  }
  EM_DEVICE static void step(const uint4& w, int s, uint32_t zero, uint32_t& low, uint32_t& high) {
    const uint32_t v = word_of(w, s);
    low = pair(v, zero);
    high = pair(v >> 8, zero);
  }
};

struct WidenFp8 {
  static constexpr int kElements = 16, kSteps = 4;
  static constexpr int kGroup = 0;
  EM_HOST_DEVICE static int place(int e) { return place_bytes(e); }
  // s eeee mmm as the bits of a bf16 is the number times 2^-120, subnormal ones too.
  EM_DEVICE static void step(const uint4& w, int s, uint32_t /*zero*/, uint32_t& low,
                             uint32_t& high) {
    const uint32_t v = word_of(w, s);
    low = raise_bf16x2(and_or(v << 4, 0x07f007f0U, (v << 8) & 0x80008000U));
    high = raise_bf16x2(and_or(v >> 4, 0x07f007f0U, v & 0x80008000U));
  }
};

template <int kGroupInputs, bool kWithZeros>
struct WidenInt4 {
  static constexpr int kElements = 32, kSteps = 8;
  static constexpr int kGroup = kGroupInputs;
  static constexpr bool kZeros = kWithZeros;
  static constexpr uint32_t kMiddle = 0x43084308U;  // 128 + 8
  EM_HOST_DEVICE static int place(int e) { return e % 4 * 2 + e / 4; }
  /// 128 + zero point twice, bf16.
  EM_DEVICE static uint32_t zero_pair(uint32_t zero) {
    return ((0x4300U | zero) << 16) | 0x4300U | zero;
  }
  EM_DEVICE static void step(const uint4& w, int s, uint32_t zero, uint32_t& low, uint32_t& high) {
    const uint32_t v = word_of(w, s / 2) >> (s % 2 == 0 ? 0 : 8);
    low = subtract_bf16x2(and_or(v, 0x000f000fU, 0x43004300U), zero);
    high = subtract_bf16x2(and_or(v >> 4, 0x000f000fU, 0x43004300U), zero);
  }
};

}  // namespace euromodal
