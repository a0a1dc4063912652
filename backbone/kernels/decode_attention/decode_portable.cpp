// decode_portable.cpp — for every CPU: GCC's vectors of 16 lanes, which the compiler cuts to what
// the machine has (SSE2, NEON).
#include <bit>
#include <cstring>

#include <c10/util/Half.h>

#include "backbone/kernels/decode_attention/decode_tile.h"

static_assert(std::endian::native == std::endian::little, "bf16 is widened as little-endian");

namespace euromodal::decode {
namespace {

typedef float Floats16 __attribute__((vector_size(64)));
typedef int32_t Ints16 __attribute__((vector_size(64)));
typedef uint32_t Words16 __attribute__((vector_size(64)));

struct Portable {
  using F = Floats16;
  static constexpr int kRows = 2;
  static constexpr int columns(int /*rows*/) { return 2; }

  template <KvType T>
  static F load(const uint8_t* p) {
    F out;
    if constexpr (T == KvType::kF32) {
      std::memcpy(&out, p, sizeof(out));
    } else if constexpr (T == KvType::kBf16) {
      typedef uint16_t Halves __attribute__((vector_size(32)));
      Halves halves;
      std::memcpy(&halves, p, sizeof(halves));
      out = std::bit_cast<F>(__builtin_convertvector(halves, Words16) << 16);
    } else if constexpr (T == KvType::kF16) {
      for (int i = 0; i < kLanes; ++i) {
        uint16_t bits;
        std::memcpy(&bits, p + 2 * i, 2);
        out[i] = c10::detail::fp16_ieee_to_fp32_value(bits);
      }
    } else {
      typedef int8_t Codes __attribute__((vector_size(16)));
      Codes codes;
      std::memcpy(&codes, p, sizeof(codes));
      out = __builtin_convertvector(codes, F);
    }
    return out;
  }
  static void store(float* p, const F& x) { std::memcpy(p, &x, sizeof(x)); }
  static F set1(float x) { return F{} + x; }
  static F mul(const F& a, const F& b) { return a * b; }
  static F add(const F& a, const F& b) { return a + b; }
  static F max(const F& a, const F& b) { return a > b ? a : b; }
  static F fma(const F& a, const F& b, const F& c) { return a * b + c; }
  static float sum(const F& x) {
    float s[kLanes];
    std::memcpy(s, &x, sizeof(s));
    for (int width = kLanes / 2; width > 0; width /= 2)
      for (int i = 0; i < width; ++i) s[i] += s[i + width];
    return s[0];
  }
  static float largest(const F& x) {
    float out = x[0];
    for (int i = 1; i < kLanes; ++i) out = x[i] > out ? x[i] : out;
    return out;
  }
  static F keep(const F& x, int64_t n) {
    F out = x;
    for (int64_t i = n < 0 ? 0 : n; i < kLanes; ++i) out[i] = -kInfinity;
    return out;
  }
  static F power(const F& y, const F& shifted) {
    const Ints16 n = (std::bit_cast<Ints16>(shifted) - (0x4B400000 - 127)) << 23;
    return y * std::bit_cast<F>(n);
  }
  static F zero_below(const F& y, const F& x, const F& limit) { return x < limit ? F{} : y; }

  struct FloatDot {
    using Sum = Floats16;
    static Sum zero() { return Sum{}; }
    static void add(Sum& sum, const F& key, const F& query) { sum += key * query; }
    static void sum4(const Sum* s, float* to) {
      for (int i = 0; i < 4; ++i) to[i] = sum(s[i]);
    }
    static float sum(const F& x) { return Portable::sum(x); }
  };
};

}  // namespace

DecodeKernel portable(KvType type) { return widened<Portable>(type); }

}  // namespace euromodal::decode
