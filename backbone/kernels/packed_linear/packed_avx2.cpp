// packed_avx2.cpp — AVX2 with FMA and F16C: bf16 weights widened to f32; integers by vpmaddubsw,
// whose 16-bit sums hold two products of codes in -128..127, and eight of nibbles.
#if defined(__x86_64__)
#include <immintrin.h>

#include "backbone/kernels/packed_linear/packed_tile.h"

namespace euromodal::packed {
namespace {

struct Widened {
  struct Sums {
    __m256 low, high;  // outputs 0 to 7, 8 to 15
  };
  struct Weight {
    __m256 even[2], odd[2];
  };
  struct Input {
    __m256 even, odd;
  };
  static Sums zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Weight load(const uint8_t* p) {
    Weight out;
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xFFFF0000U));
    for (int half = 0; half < 2; ++half) {
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * half));
      out.even[half] = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
      out.odd[half] = _mm256_castsi256_ps(_mm256_and_si256(both, mask));
    }
    return out;
  }
  static Input input(const uint8_t* row, int64_t pair) {
    const float* x = reinterpret_cast<const float*>(row) + 2 * pair;
    return {_mm256_broadcast_ss(x), _mm256_broadcast_ss(x + 1)};
  }
  static void add(Sums& sums, const Weight& weight, const Input& input) {
    sums.low = _mm256_fmadd_ps(weight.even[0], input.even, sums.low);
    sums.high = _mm256_fmadd_ps(weight.even[1], input.even, sums.high);
    sums.low = _mm256_fmadd_ps(weight.odd[0], input.odd, sums.low);
    sums.high = _mm256_fmadd_ps(weight.odd[1], input.odd, sums.high);
  }
  static void put(const Sums& sums, float* to) {
    _mm256_storeu_ps(to, sums.low);
    _mm256_storeu_ps(to + 8, sums.high);
  }
};

struct Integers {
  struct Sums {
    __m256i low, high;
  };
  struct Floats {
    __m256 low, high;
  };
  using Codes = Sums;
  using Input = __m256i;
  using Zeros = Sums;
  static Sums zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Floats float_zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static __m256i load(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  /// Signed: code - 128.
  static Codes load8(const uint8_t* p) {
    const __m256i top = _mm256_set1_epi8(static_cast<char>(0x80));
    return {_mm256_xor_si256(load(p), top), _mm256_xor_si256(load(p + 32), top)};
  }
  static void load4(const uint8_t* p, Codes& low, Codes& high) {
    const __m256i nibble = _mm256_set1_epi8(15), a = load(p), b = load(p + 32);
    low = {_mm256_and_si256(a, nibble), _mm256_and_si256(b, nibble)};
    high = {_mm256_and_si256(_mm256_srli_epi16(a, 4), nibble),
            _mm256_and_si256(_mm256_srli_epi16(b, 4), nibble)};
  }
  static Input input(const uint8_t* row, int64_t quad) {
    int32_t four;
    std::memcpy(&four, row + 4 * quad, 4);
    return _mm256_set1_epi32(four);
  }
  static __m256i quads(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
  static __m256i signed_products(__m256i codes, __m256i input) {
    return quads(_mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(input, codes)));
  }
  static void add8(Sums& sums, const Codes& codes, Input input) {
    sums.low = _mm256_add_epi32(sums.low, signed_products(codes.low, input));
    sums.high = _mm256_add_epi32(sums.high, signed_products(codes.high, input));
  }
  static void add4(Sums& sums, const Codes& codes, Input input) {
    sums.low = _mm256_add_epi32(sums.low, quads(_mm256_maddubs_epi16(codes.low, input)));
    sums.high = _mm256_add_epi32(sums.high, quads(_mm256_maddubs_epi16(codes.high, input)));
  }
  static Floats scale(const uint8_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)))};
  }
  static Zeros zeros(const uint8_t* p, bool four) {
    const __m256i signed_codes = _mm256_set1_epi32(four ? 0 : 128);  // as load8 has it
    const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_sub_epi32(_mm256_cvtepu8_epi32(all), signed_codes),
            _mm256_sub_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(all, 8)), signed_codes)};
  }
  static Zeros same_zero(bool four) {
    const __m256i zero = _mm256_set1_epi32(four ? 8 : 0);
    return {zero, zero};
  }
  static __m256 finish_half(__m256 floats, __m256i sums, __m256 scale, __m256 x_scale,
                            __m256i zeros, __m256i x_sum) {
    const __m256i exact = _mm256_sub_epi32(sums, _mm256_mullo_epi32(zeros, x_sum));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact), _mm256_mul_ps(scale, x_scale), floats);
  }
  static void finish(Floats& floats, const Sums& sums, const Floats& scale, float x_scale,
                     const Zeros& zeros, int32_t x_sum) {
    const __m256 s = _mm256_set1_ps(x_scale);
    const __m256i sum = _mm256_set1_epi32(x_sum);
    floats.low = finish_half(floats.low, sums.low, scale.low, s, zeros.low, sum);
    floats.high = finish_half(floats.high, sums.high, scale.high, s, zeros.high, sum);
  }
  static void put(const Floats& floats, float* to) {
    _mm256_storeu_ps(to, floats.low);
    _mm256_storeu_ps(to + 8, floats.high);
  }
};

}  // namespace

PackedKernels avx2() {
  return {all_tiles<Bf16Tile, Widened, 4, 1, 2>, all_tiles<Int8Tile, Integers, 4, 1, 1>,
          all_tiles<Int4Tile, Integers, 4, 1, 1>, true};
}

}  // namespace euromodal::packed
#endif
