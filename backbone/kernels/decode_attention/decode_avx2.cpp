// decode_avx2.cpp — AVX2 with FMA and F16C: keys and values widened to f32 on the way.
#if defined(__x86_64__)
#include <immintrin.h>

#include "backbone/kernels/decode_attention/decode_codes.h"

namespace euromodal::decode {
namespace {

struct Avx2 {
  struct F {
    __m256 low, high;
  };
  static constexpr int kRows = 2;
  static constexpr int columns(int rows) { return rows == 1 ? 4 : 2; }
  static constexpr int kPositions = 2;

  template <KvType T>
  static __m256 half(const uint8_t* p) {
    if constexpr (T == KvType::kF32) {
      return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
    } else if constexpr (T == KvType::kBf16) {
      const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
    } else if constexpr (T == KvType::kF16) {
      return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    } else {
      return _mm256_cvtepi32_ps(
          _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
  }
  template <KvType T>
  static F load(const uint8_t* p) {
    return {half<T>(p), half<T>(p + 8 * kv_type_bytes(T))};
  }
  /// bf16: even and odd columns apart, a shift and a mask instead of two permutations.
  template <KvType T>
  static void widen(const uint8_t* p, F* to) {
    if constexpr (T == KvType::kBf16) {
      for (int i = 0; i < 2; ++i) {
        const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * i));
        to[i].low = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        to[i].high = _mm256_castsi256_ps(
            _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xFFFF0000U))));
      }
    } else {
      to[0] = load<T>(p);
      to[1] = load<T>(p + kLanes * kv_type_bytes(T));
    }
  }
  template <KvType T>
  static void in_order(F* pair) {
    if constexpr (T == KvType::kBf16) {
      for (int i = 0; i < 2; ++i) {
        const __m256 a = _mm256_unpacklo_ps(pair[i].low, pair[i].high),
                     b = _mm256_unpackhi_ps(pair[i].low, pair[i].high);
        pair[i].low = _mm256_permute2f128_ps(a, b, 0x20);
        pair[i].high = _mm256_permute2f128_ps(a, b, 0x31);
      }
    }
  }
  template <bool kKeys>
  static __m256 code_half(const uint8_t* p, int j) {
    __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    if constexpr (kKeys) x = _mm256_xor_si256(x, _mm256_set1_epi8(static_cast<char>(kKeyZero)));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 24 - 8 * j), 24));
  }
  template <bool kKeys>
  static F code(const uint8_t* p, int j) {
    return {code_half<kKeys>(p, j), code_half<kKeys>(p + 32, j)};
  }
  static void store(float* p, const F& x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
  }
  static F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F mul(const F& a, const F& b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static F add(const F& a, const F& b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static F max(const F& a, const F& b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static F fma(const F& a, const F& b, const F& c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static float sum(const F& x) {
    const __m256 both = _mm256_add_ps(x.low, x.high);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static float largest(const F& x) {
    const __m256 both = _mm256_max_ps(x.low, x.high);
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }
  static __m256 keep_half(__m256 x, int64_t n, __m256 other) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask =
        _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < 0 ? 0 : least(n, 8))), lane);
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(mask));
  }
  static F keep(const F& x, int64_t n, const F& other) {
    if (n >= kLanes) return x;
    return {keep_half(x.low, n, other.low), keep_half(x.high, n - 8, other.high)};
  }
  static __m256 power_half(__m256 y, __m256 shifted) {
    const __m256i n =
        _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x4B400000 - 127));
    return _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(n, 23)));
  }
  static F power(const F& y, const F& shifted) {
    return {power_half(y.low, shifted.low), power_half(y.high, shifted.high)};
  }
  static F zero_below(const F& y, const F& x, const F& limit) {
    return {_mm256_andnot_ps(_mm256_cmp_ps(x.low, limit.low, _CMP_LT_OQ), y.low),
            _mm256_andnot_ps(_mm256_cmp_ps(x.high, limit.high, _CMP_LT_OQ), y.high)};
  }

  struct FloatDot {
    using Sum = __m256;  // lanes i and i + 8 together
    static Sum zero() { return _mm256_setzero_ps(); }
    static void add(Sum& sum, const F& key, const F& query) {
      sum = _mm256_fmadd_ps(key.low, query.low, sum);
      sum = _mm256_fmadd_ps(key.high, query.high, sum);
    }
    static void sum4(const Sum* s, float* to) {
      const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(s[0], s[1]), _mm256_hadd_ps(s[2], s[3]));
      _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
    }
  };
};

}  // namespace

DecodeKernel avx2(KvType type) { return widened<Avx2>(type); }

}  // namespace euromodal::decode
#endif
