// decode_simd512.h — vector operations of decode_tile.h on AVX-512 (F, BW, DQ, VL). Included only
// by files compiled for it.
#pragma once
#include <immintrin.h>

#include "backbone/kernels/decode_attention/decode_codes.h"

namespace euromodal::decode {
namespace {

struct Avx512 {
  using F = __m512;
  static constexpr int kRows = 4;
  static constexpr int columns(int rows) { return rows <= 2 ? 8 : 4; }
  static constexpr int kPositions = 4;

  template <KvType T>
  static F load(const uint8_t* p) {
    if constexpr (T == KvType::kF32) {
      return _mm512_loadu_ps(p);
    } else if constexpr (T == KvType::kBf16) {
      const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    } else if constexpr (T == KvType::kF16) {
      return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    } else {
      return _mm512_cvtepi32_ps(
          _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
  }
  /// bf16: even and odd columns apart, a shift and a mask instead of two permutations.
  template <KvType T>
  static void widen(const uint8_t* p, F* to) {
    if constexpr (T == KvType::kBf16) {
      const __m512i pairs = _mm512_loadu_si512(p);
      to[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
      to[1] = _mm512_castsi512_ps(
          _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))));
    } else {
      to[0] = load<T>(p);
      to[1] = load<T>(p + kLanes * kv_type_bytes(T));
    }
  }
  template <KvType T>
  static void in_order(F* pair) {
    if constexpr (T == KvType::kBf16) {
      const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
                    high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
      const F even = pair[0], odd = pair[1];
      pair[0] = _mm512_permutex2var_ps(even, low, odd);
      pair[1] = _mm512_permutex2var_ps(even, high, odd);
    }
  }
  template <bool kKeys>
  static F code(const uint8_t* p, int j) {
    __m512i x = _mm512_loadu_si512(p);
    if constexpr (kKeys) x = _mm512_xor_si512(x, _mm512_set1_epi8(static_cast<char>(kKeyZero)));
    return _mm512_cvtepi32_ps(
        _mm512_srai_epi32(_mm512_slli_epi32(x, static_cast<unsigned>(24 - 8 * j)), 24));
  }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(F x) { return _mm512_reduce_add_ps(x); }
  static float largest(F x) { return _mm512_reduce_max_ps(x); }
  static F keep(F x, int64_t n, F other) {
    if (n >= kLanes) return x;
    const auto mask = static_cast<__mmask16>(n <= 0 ? 0U : (1U << n) - 1U);
    return _mm512_mask_mov_ps(other, mask, x);
  }
  static F power(F y, F shifted) {
    const __m512i n =
        _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4B400000 - 127));
    return _mm512_mul_ps(y, _mm512_castsi512_ps(_mm512_slli_epi32(n, 23)));
  }
  static F zero_below(F y, F x, F limit) {
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), _mm512_setzero_ps());
  }

  struct FloatDot {
    using Sum = __m512;
    static Sum zero() { return _mm512_setzero_ps(); }
    static void add(Sum& sum, __m512 key, __m512 query) { sum = _mm512_fmadd_ps(key, query, sum); }
    static void sum4(const Sum* s, float* to) {
      const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(s[0], s[1]),
                                     _mm512_unpackhi_ps(s[0], s[1])),
                   b = _mm512_add_ps(_mm512_unpacklo_ps(s[2], s[3]),
                                     _mm512_unpackhi_ps(s[2], s[3]));
      const __m512 all =
          _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
      const __m256 half =
          _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
      _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
    }
  };
};

}  // namespace
}  // namespace euromodal::decode
