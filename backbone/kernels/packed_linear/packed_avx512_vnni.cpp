// packed_avx512_vnni.cpp — int8 and int4 weights by vpdpbusd: unsigned codes times signed inputs,
// exact in int32; the zero point comes off as zero · (sum of inputs).
#if defined(__x86_64__)
#include <immintrin.h>

#include "backbone/kernels/packed_linear/packed_tile.h"

namespace euromodal::packed {
namespace {

struct Vnni {
  using Sums = __m512i;
  using Floats = __m512;
  using Codes = __m512i;
  using Input = __m512i;
  using Zeros = __m512i;
  static Sums zero() { return _mm512_setzero_si512(); }
  static Floats float_zero() { return _mm512_setzero_ps(); }
  static Codes load8(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static void load4(const uint8_t* p, Codes& low, Codes& high) {
    const __m512i both = _mm512_loadu_si512(p), nibble = _mm512_set1_epi8(15);
    low = _mm512_and_si512(both, nibble);
    high = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
  }
  static Input input(const uint8_t* row, int64_t quad) {
    int32_t four;
    std::memcpy(&four, row + 4 * quad, 4);
    return _mm512_set1_epi32(four);
  }
  static void add8(Sums& sums, Codes codes, Input input) {
    sums = _mm512_dpbusd_epi32(sums, codes, input);
  }
  static void add4(Sums& sums, Codes codes, Input input) { add8(sums, codes, input); }
  static Floats scale(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Zeros zeros(const uint8_t* p, bool /*four*/) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Zeros same_zero(bool four) { return _mm512_set1_epi32(four ? 8 : 128); }
  static void finish(Floats& floats, Sums sums, Floats scale, float x_scale, Zeros zeros,
                     int32_t x_sum) {
    const __m512i exact =
        _mm512_sub_epi32(sums, _mm512_mullo_epi32(zeros, _mm512_set1_epi32(x_sum)));
    floats = _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact),
                             _mm512_mul_ps(scale, _mm512_set1_ps(x_scale)), floats);
  }
  static void put(Floats floats, float* to) { _mm512_storeu_ps(to, floats); }
};

}  // namespace

PackedKernels avx512_vnni() {
  return {nullptr, all_tiles<Int8Tile, Vnni, 6, 2, 1>, all_tiles<Int4Tile, Vnni, 6, 2, 1>, false};
}

}  // namespace euromodal::packed
#endif
