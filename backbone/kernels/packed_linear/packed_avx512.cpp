// packed_avx512.cpp — bf16 weights widened to f32 on the way, for CPUs without vdpbf16ps.
#if defined(__x86_64__)
#include <immintrin.h>

#include "backbone/kernels/packed_linear/packed_tile.h"

namespace euromodal::packed {
namespace {

struct Widened {
  using Sums = __m512;
  struct Weight {
    __m512 even, odd;
  };
  struct Input {
    __m512 even, odd;
  };
  static Sums zero() { return _mm512_setzero_ps(); }
  static Weight load(const uint8_t* p) {
    const __m512i both = _mm512_loadu_si512(p);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
            _mm512_castsi512_ps(
                _mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))))};
  }
  static Input input(const uint8_t* row, int64_t pair) {
    const float* x = reinterpret_cast<const float*>(row) + 2 * pair;
    return {_mm512_set1_ps(x[0]), _mm512_set1_ps(x[1])};
  }
  static void add(Sums& sums, const Weight& weight, const Input& input) {
    sums = _mm512_fmadd_ps(weight.even, input.even, sums);
    sums = _mm512_fmadd_ps(weight.odd, input.odd, sums);
  }
  static void put(Sums sums, float* to) { _mm512_storeu_ps(to, sums); }
};

}  // namespace

PackedKernel avx512_bf16_widened() { return all_tiles<Bf16Tile, Widened, 8, 2, 4>; }

}  // namespace euromodal::packed
#endif
