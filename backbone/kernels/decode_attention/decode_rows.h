// decode_rows.h — scores and sums of decode_tile.h for caches whose rows lie as they are (f32,
// bf16, f16). D: Sum, Key, Query, kStep widths at once, kQueryBytes of one width, zero(), key(p),
// query(p), add(sum, key, query), sum4(Sum[4], float[4]).
#pragma once
#include <cstdint>

#include "backbone/kernels/decode_attention/decode_tile.h"

namespace euromodal::decode {
namespace {

/// Keys as they are widened to f32, times q in f32.
template <typename V, KvType T>
struct WidenedDot : V::FloatDot {
  using Key = typename V::F;
  using Query = typename V::F;
  static constexpr int64_t kStep = kLanes, kQueryBytes = 4;
  static Key key(const uint8_t* p) { return V::template load<T>(p); }
  static Query query(const uint8_t* p) { return V::template load<KvType::kF32>(p); }
};

template <typename D, KvType T, int64_t W>
struct RowScores {
  static constexpr int64_t kBytes = kv_type_bytes(T), kQueryBytes = D::kQueryBytes;
  // Of 128 rows a head: 48 go with scores, 16 with the softmax, 64 with values.
  static int64_t softmax_lines(int64_t width) { return 2 * width * kBytes / kLine; }

  /// q·k of R rows, four positions at a time; the last may lie behind n.
  template <int R>
  static void scores(const PageRows<R>& rows, float* to, Ahead& fetches) {
    const int64_t width = width_of<W>(rows.task), row_bytes = width * kBytes;
    Ahead ahead = fetches;
    for (int64_t p = 0; p < rows.n; p += 4) {
      const uint8_t* const keys = rows.keys + p * row_bytes;
      typename D::Sum sums[R][4];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) sums[r][i] = D::zero();
      if constexpr (W != 0) {  // key by key, as they lie in memory
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          ahead.take(3 * row_bytes / (4 * kLine));
#pragma GCC unroll 8
          for (int64_t w = 0; w < W; w += D::kStep) {
            const typename D::Key key = D::key(keys + i * row_bytes + w * kBytes);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
              D::add(sums[r][i], key, D::query(rows.q + (r * W + w) * kQueryBytes));
          }
        }
      } else {
        ahead.take(3 * row_bytes / kLine);
        for (int64_t w = 0; w < width; w += D::kStep) {
          typename D::Key key[4];
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) key[i] = D::key(keys + i * row_bytes + w * kBytes);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) {
            const typename D::Query query = D::query(rows.q + (r * width + w) * kQueryBytes);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) D::add(sums[r][i], key[i], query);
          }
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) D::sum4(sums[r], to + r * kPage + p);
    }
    fetches = ahead;
  }
};

/// Values widened to f32, columns in the order of V::widen().
template <typename V, KvType T, int64_t W>
struct RowValues {
  static constexpr int64_t kBytes = kv_type_bytes(T);

  /// out = out · before + weights · values for R rows and columns of C vectors.
  template <int R, int C>
  static void tile(const PageRows<R>& rows, const float* weights, const float* before,
                   int64_t column, Ahead& fetches) {
    const int64_t width = width_of<W>(rows.task), row_bytes = width * kBytes;
    constexpr int64_t kTileBytes = C * kLanes * kBytes;
    float* const out = rows.out_RW + column;
    Ahead ahead = fetches;
    typename V::F sums[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        sums[r][c] = V::mul(load_floats<V>(out + r * width + c * kLanes), V::set1(before[r]));
    for (int64_t p = 0; p < rows.n; ++p) {
      const uint8_t* const values = rows.values + p * row_bytes + column * kBytes;
      ahead.take(kTileBytes / kLine);
      typename V::F value[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; c += 2) V::template widen<T>(values + c * kLanes * kBytes, value + c);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const auto weight = V::set1(weights[r * kPage + p]);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) sums[r][c] = V::fma(weight, value[c], sums[r][c]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) V::store(out + r * width + c * kLanes, sums[r][c]);
    fetches = ahead;
  }

  /// All columns, C vectors at a time, the rest in halves of C.
  template <int R, int C = V::columns(R)>
  static void add(const PageRows<R>& rows, const float* weights, const float* before, Ahead& ahead,
                  int64_t column = 0) {
    for (; column + C * kLanes <= width_of<W>(rows.task); column += C * kLanes)
      tile<R, C>(rows, weights, before, column, ahead);
    if constexpr (C > 2) add<R, C / 2>(rows, weights, before, ahead, column);
  }

  /// The sums of all rows in the order of the columns.
  static void finish(const DecodeTask& t, float* out_RW) {
    for (int64_t i = 0; i < t.rows * t.width; i += 2 * kLanes) {
      typename V::F pair[2] = {load_floats<V>(out_RW + i), load_floats<V>(out_RW + i + kLanes)};
      V::template in_order<T>(pair);
      V::store(out_RW + i, pair[0]);
      V::store(out_RW + i + kLanes, pair[1]);
    }
  }
};

template <typename V, typename D, KvType T>
void row_pages(const DecodeTask& t) {
  constexpr int64_t kUsual = 128;  // a loop over a known width is unrolled
  if (t.width == kUsual)
    return all_pages<V, RowScores<D, T, kUsual>, RowValues<V, T, kUsual>, T, kUsual>(t);
  all_pages<V, RowScores<D, T, 0>, RowValues<V, T, 0>, T, 0>(t);
}

}  // namespace
}  // namespace euromodal::decode
