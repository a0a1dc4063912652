// packed_avx512_bf16.cpp — bf16 weights by vdpbf16ps: products of pairs added to f32 sums (rounded
// to nearest, denormals are zero).
#if defined(__x86_64__)
#include <immintrin.h>

#include "backbone/kernels/packed_linear/packed_tile.h"

namespace euromodal::packed {
namespace {

struct Pairs {
  using Sums = __m512;
  using Weight = __m512bh;
  using Input = __m512bh;
  static Sums zero() { return _mm512_setzero_ps(); }
  static Weight load(const uint8_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static Input input(const uint8_t* row, int64_t pair) {
    int32_t both;
    std::memcpy(&both, row + 4 * pair, 4);
    return (__m512bh)_mm512_set1_epi32(both);
  }
  static void add(Sums& sums, Weight weight, Input input) {
    sums = _mm512_dpbf16_ps(sums, weight, input);
  }
  static void put(Sums sums, float* to) { _mm512_storeu_ps(to, sums); }
};

}  // namespace

PackedKernel avx512_bf16_pairs() { return all_tiles<Bf16Tile, Pairs, 12, 2, 4>; }

}  // namespace euromodal::packed
#endif
