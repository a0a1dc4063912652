// decode_avx512_vnni.cpp — int8 keys and values by integer products (vpdpbusd): keys times codes of
// q, weights of a page as 16 bits of their largest times values, four at a time. Sums over a page
// are exact, whatever the order; f32 from page to page.
#if defined(__x86_64__)
#include "backbone/kernels/decode_attention/decode_simd512.h"

namespace euromodal::decode {
namespace {

/// sum + products of bytes. (GCC 12 copies every sum of the intrinsic to another register and
/// back.)
[[gnu::always_inline]] inline void add_products(__m512i& sum, __m512i unsigned_x4,
                                                __m512i signed_x4) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_x4), "v"(signed_x4));
}

[[gnu::always_inline]] inline __m512i each_lane(const void* p) {  // four bytes
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return _mm512_set1_epi32(four);
}

struct Codes512 : Avx512 {
  static constexpr int kRows = 2;  // their sums, high and low, of four vectors
};

struct ProductScores {
  static constexpr int64_t kQueryBytes = 2;
  static int64_t softmax_lines(int64_t width) { return code_softmax_lines(width); }

  template <int R>
  static void scores(const PageRows<R>& rows, float* to, Ahead& fetches) {
    const int64_t width = rows.task.width;
    Ahead ahead = fetches;
    __m512i high[R][4], low[R][4];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) high[r][v] = low[r][v] = _mm512_setzero_si512();
    for (int64_t n = 0; n < width; n += 4) {
      const uint8_t* const keys = rows.keys + n / 4 * kFourBytes;
      ahead.take(2);
      __m512i key[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) key[v] = _mm512_loadu_si512(keys + v * kLine);
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        const __m512i h = each_lane(rows.q + r * width * kQueryBytes + n),
                      l = each_lane(rows.q + r * width * kQueryBytes + width + n);
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          add_products(high[r][v], key[v], h);
          add_products(low[r][v], key[v], l);
        }
      }
    }
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const __m512i offset = _mm512_set1_epi32(rows.q_offset_R[r]);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const __m512i all = _mm512_add_epi32(_mm512_slli_epi32(high[r][v], 8), low[r][v]);
        V::store(to + r * kPage + v * kLanes, _mm512_cvtepi32_ps(_mm512_sub_epi32(all, offset)));
      }
    }
    fetches = ahead;
  }
  using V = Avx512;
};

/// The weights of R rows in one page: (256 · high + low) · scale.
template <int R>
struct WeightCodes {
  alignas(64) uint8_t high[R][kPage], low[R][kPage];
  float scale[R];

  void set(const float* weights, int64_t n) {
    constexpr float kMost = 65535.0F, kTiny = 1e-30F;
    __m512 most[R];
    __mmask16 no_number[R];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      most[r] = _mm512_setzero_ps();
      no_number[r] = 0;
    }
    for (int64_t p = 0; p < n; p += kLanes) {
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        const __m512 x = _mm512_load_ps(weights + r * kPage + p);
        most[r] = _mm512_max_ps(x, most[r]);
        no_number[r] |= _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
      }
    }
    __m512 inverse[R];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const float largest = _mm512_reduce_max_ps(most[r]);
      scale[r] = no_number[r] != 0 ? __builtin_nanf("") : largest / kMost;
      inverse[r] = _mm512_set1_ps(largest > kTiny ? kMost / largest : 0.0F);
    }
    for (int64_t p = 0; p < n; p += kLanes) {
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        const __m512i code =
            _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(weights + r * kPage + p), inverse[r]));
        _mm_store_si128(reinterpret_cast<__m128i*>(high[r] + p),
                        _mm512_cvtepi32_epi8(_mm512_srli_epi32(code, 8)));
        _mm_store_si128(reinterpret_cast<__m128i*>(low[r] + p), _mm512_cvtepi32_epi8(code));
      }
    }
  }
};

struct ProductValues {
  /// out = out · before + weights · values for R rows and kBlocks times kValueColumns columns.
  template <int R, int kBlocks>
  static void tile(const PageRows<R>& rows, const WeightCodes<R>& codes, const float* before,
                   int64_t column, Ahead& ahead) {
    constexpr int kVectors = 2 * kBlocks;
    const uint8_t* const block = rows.values + column / kValueColumns * kBlockBytes;
    __m512i high[R][kVectors], low[R][kVectors];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) high[r][v] = low[r][v] = _mm512_setzero_si512();
    for (int64_t p = 0; p < rows.n; p += 4) {
      ahead.take(2 * kBlocks);
      __m512i value[kVectors];
#pragma GCC unroll 2
      for (int b = 0; b < kBlocks; ++b) {
        const uint8_t* const values = block + b * kBlockBytes + p / 4 * kColumnsBytes;
        value[2 * b] = _mm512_loadu_si512(values);
        value[2 * b + 1] = _mm512_loadu_si512(values + kLine);
      }
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        const __m512i h = each_lane(codes.high[r] + p), l = each_lane(codes.low[r] + p);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          add_products(high[r][v], h, value[v]);
          add_products(low[r][v], l, value[v]);
        }
      }
    }
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const __m512 scale = _mm512_set1_ps(codes.scale[r]), factor = _mm512_set1_ps(before[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const __m512i all = _mm512_add_epi32(_mm512_slli_epi32(high[r][v], 8), low[r][v]);
        float* const to = rows.out_RW + r * rows.task.width + column + v * kLanes;
        _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(all), scale,
                                             _mm512_mul_ps(_mm512_loadu_ps(to), factor)));
      }
    }
  }

  template <int R>
  static void add(const PageRows<R>& rows, const float* weights, const float* before,
                  Ahead& fetches) {
    Ahead ahead = fetches;
    WeightCodes<R> codes;
    codes.set(weights, rows.n);
    int64_t column = 0;
    for (; column + 2 * kValueColumns <= rows.task.width; column += 2 * kValueColumns)
      tile<R, 2>(rows, codes, before, column, ahead);
    if (column < rows.task.width) tile<R, 1>(rows, codes, before, column, ahead);
    fetches = ahead;
  }
  static void finish(const DecodeTask& /*t*/, float* /*out_RW*/) {}
};

}  // namespace

DecodeKernel avx512_vnni_codes() {
  return all_pages<Codes512, ProductScores, ProductValues, KvType::kInt8, 0>;
}

}  // namespace euromodal::decode
#endif
