// decode_codes.h — scores and sums of decode_tile.h for int8 caches (kv_layout.h), widened to f32.
#pragma once
#include <cstdint>

#include "backbone/kernels/decode_attention/decode_rows.h"

namespace euromodal::decode {
namespace {

constexpr int64_t kFourBytes = kPage * 4;             // four numbers of all keys of a page
constexpr int64_t kColumnsBytes = kValueColumns * 4;  // kValueColumns columns of four positions
constexpr int64_t kBlockBytes = kPage * kValueColumns;

/// Lines that go with the softmax: of 2 W + 8 a head, W / 2 go with scores, W with values.
constexpr int64_t code_softmax_lines(int64_t width) { return width / 16 + 1; }

template <typename V>
struct CodeScores {
  static constexpr int64_t kQueryBytes = 4;
  static int64_t softmax_lines(int64_t width) { return code_softmax_lines(width); }

  template <int R>
  static void scores(const PageRows<R>& rows, float* to, Ahead& fetches) {
    constexpr int kVectors = V::kPositions;
    const int64_t width = rows.task.width;
    const auto* q = reinterpret_cast<const float*>(rows.q);
    Ahead ahead = fetches;
    for (int64_t p = 0; p < rows.n; p += kVectors * kLanes) {
      typename V::F sums[R][kVectors];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] = V::set1(0.0F);
      for (int64_t four = 0; four < width / 4; ++four) {
        const uint8_t* const keys = rows.keys + four * kFourBytes + p * 4;
        if (p == 0) ahead.take(2);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          typename V::F key[kVectors];
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v)
            key[v] = V::template code</*kKeys=*/true>(keys + v * kLine, j);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) {
            const auto query = V::set1(q[r * width + 4 * four + j]);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) sums[r][v] = V::fma(key[v], query, sums[r][v]);
          }
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) V::store(to + r * kPage + p + v * kLanes, sums[r][v]);
    }
    fetches = ahead;
  }
};

template <typename V>
struct CodeValues {
  /// out = out · before + weights · values for R rows and kValueColumns columns.
  template <int R>
  static void add(const PageRows<R>& rows, const float* weights, const float* before,
                  Ahead& fetches) {
    const int64_t width = rows.task.width;
    Ahead ahead = fetches;
    for (int64_t column = 0; column < width; column += kValueColumns) {
      const uint8_t* const block = rows.values + column / kValueColumns * kBlockBytes;
      float* const out = rows.out_RW + column;
      typename V::F sums[R][2];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int c = 0; c < 2; ++c)
          sums[r][c] = V::mul(load_floats<V>(out + r * width + c * kLanes), V::set1(before[r]));
      for (int64_t p = 0; p < rows.n; p += 4) {
        const uint8_t* const values = block + p / 4 * kColumnsBytes;
        ahead.take(2);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const typename V::F value[2] = {V::template code</*kKeys=*/false>(values, j),
                                          V::template code</*kKeys=*/false>(values + kLine, j)};
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) {
            const auto weight = V::set1(weights[r * kPage + p + j]);
#pragma GCC unroll 2
            for (int c = 0; c < 2; ++c) sums[r][c] = V::fma(weight, value[c], sums[r][c]);
          }
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int c = 0; c < 2; ++c) V::store(out + r * width + c * kLanes, sums[r][c]);
    }
    fetches = ahead;
  }
  static void finish(const DecodeTask& /*t*/, float* /*out_RW*/) {}
};

/// The kernels that widen everything to f32.
template <typename V>
DecodeKernel widened(KvType type) {
  switch (type) {
    case KvType::kF32:
      return row_pages<V, WidenedDot<V, KvType::kF32>, KvType::kF32>;
    case KvType::kBf16:
      return row_pages<V, WidenedDot<V, KvType::kBf16>, KvType::kBf16>;
    case KvType::kF16:
      return row_pages<V, WidenedDot<V, KvType::kF16>, KvType::kF16>;
    default:
      return all_pages<V, CodeScores<V>, CodeValues<V>, KvType::kInt8, 0>;
  }
}

}  // namespace
}  // namespace euromodal::decode
