// decode_tile.h — the loops that all instruction sets share: page by page scores, online softmax
// (Milakov and Gimelshein 2018) and sums of values, R rows at a time, so that a key or value that
// was read serves all rows. Included once by each file of an instruction set, inside an unnamed
// namespace there; `V` are its vector operations, `D` its dot product.
//
// V: F (16 floats), load<KvType>(p), store(float*, F), set1(x), mul(a, b), add(a, b), max(a, b)
// (b where one is NaN), fma(a, b, c) = a·b + c, sum(F), largest(F), keep(F, n) (lanes from n on are
// -infinity), power(y, shifted) = y · 2^n, zero_below(y, x, least); kRows and columns(R): rows and
// vectors of a tile. D: Sum, Key, Query, kStep widths at once, zero(), key(p), query(p), add(sum,
// key, query), sum4(Sum[4], float[4]), query_bytes of one width.
#pragma once
#include <cstdint>

#include "backbone/kernels/decode_attention/decode_kernels.h"

namespace euromodal::decode {
namespace {

constexpr int64_t kPage = kPagePositions;
constexpr int64_t kLanes = 16;

constexpr float kInfinity = __builtin_inff();

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void fill(float* x, int64_t n, float value) {
  for (int64_t i = 0; i < n; ++i) x[i] = value;
}

void prefetch(const uint8_t* p, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at);
}

/// As fast_exp() of simd.h; e^-infinity is 0, NaN stays NaN.
template <typename V>
typename V::F exp_of(typename V::F x) {
  const auto clamped = V::max(V::set1(-87.0F), x);
  const auto round = V::set1(12582912.0F);  // 1.5 · 2^23: adding it leaves the nearest integer
  const auto shifted = V::fma(clamped, V::set1(1.44269504088896341F), round);
  const auto n = V::add(shifted, V::set1(-12582912.0F));
  auto r = V::fma(n, V::set1(-0.693359375F), clamped);
  r = V::fma(n, V::set1(2.12194440e-4F), r);
  auto p = V::set1(1.9875691500e-4F);
  p = V::fma(p, r, V::set1(1.3981999507e-3F));
  p = V::fma(p, r, V::set1(8.3334519073e-3F));
  p = V::fma(p, r, V::set1(4.1665795894e-2F));
  p = V::fma(p, r, V::set1(1.6666665459e-1F));
  p = V::fma(p, r, V::set1(5.0000001201e-1F));
  const auto y = V::add(V::fma(V::mul(p, r), r, r), V::set1(1.0F));
  return V::zero_below(V::power(y, shifted), x, V::set1(-87.0F));
}

/// Keys as they are widened to f32, times q in f32.
template <typename V, KvType T>
struct WidenedDot : V::FloatDot {
  using Key = typename V::F;
  using Query = typename V::F;
  static constexpr int64_t kStep = kLanes, kQueryBytes = 4;
  static Key key(const uint8_t* p) { return V::template load<T>(p); }
  static Query query(const uint8_t* p) { return V::template load<KvType::kF32>(p); }
};

/// q·k of R rows and n positions -> scores [R, kPage]; the last of four positions may lie behind n.
template <typename D, KvType T, int R>
void scores_of(const DecodeTask& t, const uint8_t* q, const uint8_t* keys, int64_t n,
               const uint8_t* ahead, float* scores) {
  constexpr int64_t kBytes = kv_type_bytes(T);
  const int64_t row_bytes = t.width * kBytes, q_bytes = t.width * D::kQueryBytes;
  for (int64_t p = 0; p < n; p += 4) {
    if (ahead != nullptr) prefetch(ahead + p * row_bytes, 4 * row_bytes);
    typename D::Sum sums[R][4];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sums[r][i] = D::zero();
    for (int64_t w = 0; w < t.width; w += D::kStep) {
      typename D::Key key[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) key[i] = D::key(keys + (p + i) * row_bytes + w * kBytes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const typename D::Query query = D::query(q + r * q_bytes + w * D::kQueryBytes);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) D::add(sums[r][i], key[i], query);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) D::sum4(sums[r], scores + r * kPage + p);
  }
}

/// Scores of one row, of which it sees `count`, -> weights of the values; what was summed before is
/// to be multiplied by the result.
template <typename V>
float softmax_row(const DecodeTask& t, int64_t row, const float* key_scales,
                  const float* value_scales, int64_t n, int64_t count, float* scores) {
  if (count <= 0) {
    fill(scores, n, 0.0F);
    return 1.0F;
  }
  const auto load = [](const float* p) {
    return V::template load<KvType::kF32>(reinterpret_cast<const uint8_t*>(p));
  };
  const auto scale = V::set1(t.scale);
  auto best = V::set1(t.max_R[row]);
  for (int64_t p = 0; p < n; p += kLanes) {
    auto x = V::mul(load(scores + p), scale);
    if (key_scales != nullptr) x = V::mul(x, load(key_scales + p));
    x = V::keep(x, count - p);
    V::store(scores + p, x);
    best = V::max(x, best);
  }
  const float largest = V::largest(best);
  const auto minus = V::set1(-largest);
  auto sum = V::set1(0.0F);
  for (int64_t p = 0; p < n; p += kLanes) {
    auto x = exp_of<V>(V::add(load(scores + p), minus));
    sum = V::add(sum, x);
    if (value_scales != nullptr) x = V::mul(x, load(value_scales + p));
    V::store(scores + p, x);
  }
  alignas(64) float before[kLanes];
  V::store(before, exp_of<V>(V::set1(t.max_R[row] - largest)));
  t.max_R[row] = largest;
  t.sum_R[row] = t.sum_R[row] * before[0] + V::sum(sum);
  return before[0];
}

/// out = out · before + weights · values for R rows and columns of C vectors.
template <typename V, KvType T, int R, int C>
void values_tile(const DecodeTask& t, const uint8_t* values, int64_t n, const float* weights,
                 const float* before, float* out, const uint8_t* ahead) {
  constexpr int64_t kBytes = kv_type_bytes(T);
  const int64_t row_bytes = t.width * kBytes;
  typename V::F sums[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      sums[r][c] = V::mul(V::template load<KvType::kF32>(
                              reinterpret_cast<const uint8_t*>(out + r * t.width + c * kLanes)),
                          V::set1(before[r]));
  for (int64_t p = 0; p < n; ++p) {
    if (ahead != nullptr) prefetch(ahead + p * row_bytes, C * kLanes * kBytes);
    typename V::F value[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      value[c] = V::template load<T>(values + p * row_bytes + c * kLanes * kBytes);
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
    for (int c = 0; c < C; ++c) V::store(out + r * t.width + c * kLanes, sums[r][c]);
}

/// All columns, C vectors at a time, the rest in halves of C.
template <typename V, KvType T, int R, int C>
void values_of(const DecodeTask& t, const uint8_t* values, int64_t n, const float* weights,
               const float* before, float* out, const uint8_t* ahead, int64_t column = 0) {
  constexpr int64_t kColumns = C * kLanes;
  for (; column + kColumns <= t.width; column += kColumns) {
    const int64_t at = column * kv_type_bytes(T);
    values_tile<V, T, R, C>(t, values + at, n, weights, before, out + column,
                            ahead == nullptr ? nullptr : ahead + at);
  }
  if constexpr (C > 2) values_of<V, T, R, C / 2>(t, values, n, weights, before, out, ahead, column);
}

/// Rows [row, row + R) over n positions of one page.
template <typename V, typename D, KvType T, int R>
void page_rows(const DecodeTask& t, const uint8_t* page, const uint8_t* ahead, int64_t begin,
               int64_t n, int64_t row) {
  alignas(64) float scores[R * kPage];
  const uint8_t* values = page + t.values_at;
  const bool first = row == 0;  // the others find the page in the cache
  scores_of<D, T, R>(t, t.q + row * t.width * D::kQueryBytes, page + t.keys_at, n,
                     first ? values : nullptr, scores);
  float before[R];
  constexpr bool kScaled = T == KvType::kInt8;
  const auto* key_scales = reinterpret_cast<const float*>(page + t.key_scales_at);
  const auto* value_scales = reinterpret_cast<const float*>(page + t.value_scales_at);
  for (int r = 0; r < R; ++r) {
    const int64_t count = least(n, t.visible + (row + r) / t.group - begin);
    before[r] = softmax_row<V>(t, row + r, kScaled ? key_scales : nullptr,
                               kScaled ? value_scales : nullptr, n, count, scores + r * kPage);
  }
  values_of<V, T, R, V::columns(R)>(t, values, n, scores, before, t.out_RW + row * t.width,
                                    first ? ahead : nullptr);
}

template <typename V, typename D, KvType T, int R>
void rest_rows(const DecodeTask& t, const uint8_t* page, const uint8_t* ahead, int64_t begin,
               int64_t n, int64_t row) {
  if constexpr (R > 0) {
    if (t.rows - row == R) return page_rows<V, D, T, R>(t, page, ahead, begin, n, row);
    rest_rows<V, D, T, R - 1>(t, page, ahead, begin, n, row);
  }
}

template <typename V, typename D, KvType T>
void all_pages(const DecodeTask& t) {
  fill(t.out_RW, t.rows * t.width, 0.0F);
  fill(t.max_R, t.rows, -kInfinity);
  fill(t.sum_R, t.rows, 0.0F);
  for (int64_t begin = t.begin; begin < t.end; begin += kPage) {
    const int64_t n = least(kPage, t.end - begin);
    const uint8_t* const* page = t.pages + begin / kPage;
    const uint8_t* ahead = begin + kPage < t.end ? page[1] + t.keys_at : t.next;
    int64_t row = 0;
    for (; row + V::kRows <= t.rows; row += V::kRows)
      page_rows<V, D, T, V::kRows>(t, *page, ahead, begin, n, row);
    rest_rows<V, D, T, V::kRows - 1>(t, *page, ahead, begin, n, row);
  }
}

template <typename V>
DecodeKernel widened(KvType type) {
  switch (type) {
    case KvType::kF32:
      return all_pages<V, WidenedDot<V, KvType::kF32>, KvType::kF32>;
    case KvType::kBf16:
      return all_pages<V, WidenedDot<V, KvType::kBf16>, KvType::kBf16>;
    case KvType::kF16:
      return all_pages<V, WidenedDot<V, KvType::kF16>, KvType::kF16>;
    default:
      return all_pages<V, WidenedDot<V, KvType::kInt8>, KvType::kInt8>;
  }
}

}  // namespace
}  // namespace euromodal::decode
