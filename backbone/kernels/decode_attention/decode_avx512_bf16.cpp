// decode_avx512_bf16.cpp — scores of bf16 keys by vdpbf16ps: products of pairs added to f32 sums
// (rounded to nearest, denormals are zero). Values are widened to f32, their weights stay f32.
#if defined(__x86_64__)
#include "backbone/kernels/decode_attention/decode_simd512.h"

namespace euromodal::decode {
namespace {

struct PairsDot {
  using Sum = __m512;
  using Key = __m512bh;
  using Query = __m512bh;
  static constexpr int64_t kStep = 32, kQueryBytes = 2;
  static Sum zero() { return _mm512_setzero_ps(); }
  static Key key(const uint8_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static Query query(const uint8_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static void add(Sum& sum, Key key, Query query) { sum = _mm512_dpbf16_ps(sum, key, query); }
  static void sum4(const Sum* s, float* to) { Avx512::FloatDot::sum4(s, to); }
};

}  // namespace

DecodeKernel avx512_bf16_pairs() { return row_pages<Avx512, PairsDot, KvType::kBf16>; }

}  // namespace euromodal::decode
#endif
