// decode_portable.cpp — for every CPU: GCC's vectors of four lanes (SSE2, NEON).
#include <bit>
#include <cstring>

#include <c10/util/Half.h>

#include "backbone/kernels/decode_attention/decode_codes.h"

static_assert(std::endian::native == std::endian::little, "bf16 is widened as little-endian");

namespace euromodal::decode {
namespace {

// Four vectors of the width that SSE2 and NEON have: GCC keeps these in registers, but not a vector
// of 64 bytes.
typedef float Floats4 __attribute__((vector_size(16)));
typedef int32_t Ints4 __attribute__((vector_size(16)));
typedef uint32_t Words4 __attribute__((vector_size(16)));
struct Floats16 {
  Floats4 a, b, c, d;
};

template <typename F>
Floats16 each(F&& f, const auto&... x) {
  return {f(x.a...), f(x.b...), f(x.c...), f(x.d...)};
}

template <KvType T>
Floats4 load_four(const uint8_t* p) {
  Floats4 out;
  if constexpr (T == KvType::kF32) {
    std::memcpy(&out, p, sizeof(out));
  } else if constexpr (T == KvType::kBf16) {
    typedef uint16_t Halves __attribute__((vector_size(8)));
    Halves halves;
    std::memcpy(&halves, p, sizeof(halves));
    out = std::bit_cast<Floats4>(__builtin_convertvector(halves, Words4) << 16);
  } else if constexpr (T == KvType::kF16) {
    for (int i = 0; i < 4; ++i) {
      uint16_t bits;
      std::memcpy(&bits, p + 2 * i, 2);
      out[i] = c10::detail::fp16_ieee_to_fp32_value(bits);
    }
  } else {
    typedef int8_t Codes __attribute__((vector_size(4)));
    Codes codes;
    std::memcpy(&codes, p, sizeof(codes));
    out = __builtin_convertvector(__builtin_convertvector(codes, Ints4), Floats4);
  }
  return out;
}

struct Portable {
  using F = Floats16;
  static constexpr int kRows = 1;
  static constexpr int columns(int /*rows*/) { return 2; }
  static constexpr int kPositions = 1;

  template <KvType T>
  static F load(const uint8_t* p) {
    constexpr int64_t kFour = 4 * kv_type_bytes(T);
    return {load_four<T>(p), load_four<T>(p + kFour), load_four<T>(p + 2 * kFour),
            load_four<T>(p + 3 * kFour)};
  }
  template <KvType T>
  static void widen(const uint8_t* p, F* to) {
    to[0] = load<T>(p);
    to[1] = load<T>(p + kLanes * kv_type_bytes(T));
  }
  template <bool kKeys>
  static Floats4 code_four(const uint8_t* p, int j) {
    Words4 x;
    std::memcpy(&x, p, sizeof(x));
    if constexpr (kKeys) x ^= 0x01010101U * kKeyZero;
    return __builtin_convertvector(std::bit_cast<Ints4>(x << (24 - 8 * j)) >> 24, Floats4);
  }
  template <bool kKeys>
  static F code(const uint8_t* p, int j) {
    return {code_four<kKeys>(p, j), code_four<kKeys>(p + 16, j), code_four<kKeys>(p + 32, j),
            code_four<kKeys>(p + 48, j)};
  }
  template <KvType T>
  static void in_order(F* /*pair*/) {}
  static void store(float* p, const F& x) { std::memcpy(p, &x, sizeof(x)); }
  static F set1(float x) {
    const Floats4 four = Floats4{} + x;
    return {four, four, four, four};
  }
  static F mul(const F& x, const F& y) {
    return each([](Floats4 a, Floats4 b) { return a * b; }, x, y);
  }
  static F add(const F& x, const F& y) {
    return each([](Floats4 a, Floats4 b) { return a + b; }, x, y);
  }
  static F max(const F& x, const F& y) {
    return each([](Floats4 a, Floats4 b) { return a > b ? a : b; }, x, y);
  }
  static F fma(const F& x, const F& y, const F& z) {
    return each([](Floats4 a, Floats4 b, Floats4 c) { return a * b + c; }, x, y, z);
  }
  static float sum(const F& x) {
    const Floats4 s = (x.a + x.c) + (x.b + x.d);
    return (s[0] + s[2]) + (s[1] + s[3]);
  }
  static float largest(const F& x) {
    float s[kLanes], out = x.a[0];
    store(s, x);
    for (const float one : s) out = one > out ? one : out;
    return out;
  }
  static F keep(const F& x, int64_t n, const F& other) {
    float s[kLanes], rest[kLanes];
    store(s, x);
    store(rest, other);
    for (int64_t i = n < 0 ? 0 : n; i < kLanes; ++i) s[i] = rest[i];
    F out;
    std::memcpy(&out, s, sizeof(out));
    return out;
  }
  static F power(const F& y, const F& shifted) {
    return each(
        [](Floats4 a, Floats4 b) {
          return a * std::bit_cast<Floats4>((std::bit_cast<Ints4>(b) - (0x4B400000 - 127)) << 23);
        },
        y, shifted);
  }
  static F zero_below(const F& y, const F& x, const F& limit) {
    return each([](Floats4 a, Floats4 b, Floats4 c) { return b < c ? Floats4{} : a; }, y, x, limit);
  }

  struct FloatDot {
    using Sum = Floats16;
    static Sum zero() { return Sum{}; }
    static void add(Sum& sum, const F& key, const F& query) { sum = fma(key, query, sum); }
    static void sum4(const Sum* s, float* to) {
      for (int i = 0; i < 4; ++i) to[i] = sum(s[i]);
    }
    static float sum(const F& x) { return Portable::sum(x); }
  };
};

}  // namespace

DecodeKernel portable(KvType type) { return widened<Portable>(type); }

}  // namespace euromodal::decode
