// decode_tile.h — the loops that all instruction sets share: page by page and head by head scores,
// online softmax (Milakov and Gimelshein 2018) and sums of values, R rows at a time, so that a key
// or value that was read serves all rows. Included once by each file of an instruction set, inside
// an unnamed namespace there; `V` are its vector operations, `S` its scores, `A` its sums of
// values, T the form of the cache, W the width (0: any).
//
// V: F (16 floats), load<KvType>(p), store(float*, F), set1(x), mul(a, b), add(a, b), max(a, b)
// (b where one is NaN), fma(a, b, c) = a·b + c, sum(F), largest(F), keep(F, n, other) (lanes from n
// on are those of `other`), power(y, shifted) = y · 2^n, zero_below(y, x, least); widen<KvType>(p,
// F[2]): 32 numbers in an order of their own, which in_order<KvType>(F[2]) undoes; code<kKeys>(p,
// j) numbers j of 16 fours of int8; kRows, columns(R) and kPositions: rows of a tile, vectors of
// values, vectors of positions. S: scores<R>() -> [R, kPage]. A: add<R>(), finish().
#pragma once
#include <cstdint>

#include "backbone/kernels/decode_attention/decode_ahead.h"
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

template <typename V>
[[gnu::always_inline]] inline typename V::F load_floats(const float* p) {
  return V::template load<KvType::kF32>(reinterpret_cast<const uint8_t*>(p));
}

/// As fast_exp() of simd.h; e^-infinity is 0, NaN stays NaN.
template <typename V>
[[gnu::always_inline]] inline typename V::F exp_of(typename V::F x) {
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

template <int64_t W>
[[gnu::always_inline]] inline int64_t width_of(const DecodeTask& t) {
  return W != 0 ? W : t.width;
}

/// Rows of one head over the n positions of a page, of which row r sees count[r].
template <int R>
struct PageRows {
  const DecodeTask& task;
  const uint8_t* q;           // of the first row
  const float* q_scale_R;     // or null
  const int32_t* q_offset_R;  // or null
  const uint8_t *keys, *values;
  int64_t n;
  int64_t count[R];
  float *out_RW, *max_R, *sum_R;
};

/// Scores -> weights of the values (0 where nothing is seen); before[r]: what was summed before is
/// to be multiplied by it. Fetches `lines` of what is ahead for each 16 positions, twice.
template <typename V, KvType T, int R>
void softmax_rows(const PageRows<R>& rows, float* scores, float* before, Ahead& ahead,
                  int64_t lines) {
  constexpr bool kScaled = T == KvType::kInt8;
  const auto* key_scales = reinterpret_cast<const float*>(rows.keys + rows.task.key_scales_at);
  const auto* value_scales = reinterpret_cast<const float*>(rows.keys + rows.task.value_scales_at);
  const auto nothing = V::set1(-kInfinity), zero = V::set1(0.0F);
  typename V::F best[R], sum[R], minus[R], scale[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    best[r] = V::set1(rows.max_R[r]);
    scale[r] =
        V::set1(rows.q_scale_R != nullptr ? rows.task.scale * rows.q_scale_R[r] : rows.task.scale);
    sum[r] = zero;
  }
  for (int64_t p = 0; p < rows.n; p += kLanes) {
    ahead.take(lines);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      auto x = V::mul(load_floats<V>(scores + r * kPage + p), scale[r]);
      if (kScaled) x = V::mul(x, load_floats<V>(key_scales + p));
      x = V::keep(x, rows.count[r] - p, nothing);
      V::store(scores + r * kPage + p, x);
      best[r] = V::max(x, best[r]);
    }
  }
  alignas(64) float change[kLanes] = {};
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const float largest = V::largest(best[r]);
    const bool seen = largest != -kInfinity;
    minus[r] = V::set1(seen ? -largest : 0.0F);
    change[r] = seen ? rows.max_R[r] - largest : 0.0F;
    rows.max_R[r] = largest;
  }
  for (int64_t p = 0; p < rows.n; p += kLanes) {
    ahead.take(lines);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      auto x = exp_of<V>(V::add(load_floats<V>(scores + r * kPage + p), minus[r]));
      sum[r] = V::add(sum[r], x);
      if (kScaled)  // (the scales of positions not seen may be NaN)
        x = V::keep(V::mul(x, load_floats<V>(value_scales + p)), rows.count[r] - p, zero);
      V::store(scores + r * kPage + p, x);
    }
  }
  V::store(change, exp_of<V>(load_floats<V>(change)));
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    before[r] = change[r];
    rows.sum_R[r] = rows.sum_R[r] * before[r] + V::sum(sum[r]);
  }
}

/// One head in one page.
struct HeadPage {
  const uint8_t *q, *keys;
  const float* q_scale_R;
  const int32_t* q_offset_R;
  int64_t begin, n;
  float* out;
  Ahead ahead;
};

/// Rows [row, row + R) of a head in a page.
template <typename V, typename S, typename A, KvType T, int64_t W, int R>
void page_rows(const DecodeTask& t, HeadPage& head, int64_t row) {
  alignas(64) float scores[R * kPage];
  const int64_t width = width_of<W>(t);
  PageRows<R> rows{t,
                   head.q + row * width * S::kQueryBytes,
                   head.q_scale_R == nullptr ? nullptr : head.q_scale_R + row,
                   head.q_offset_R == nullptr ? nullptr : head.q_offset_R + row,
                   head.keys,
                   head.keys + t.values_at,
                   head.n,
                   {},
                   head.out + row * width,
                   head.out + t.rows * width + row,
                   head.out + t.rows * (width + 1) + row};
  for (int r = 0; r < R; ++r)
    rows.count[r] = least(head.n, t.visible + (row + r) / t.group - head.begin);
  S::template scores<R>(rows, scores, head.ahead);
  float before[R];
  softmax_rows<V, T, R>(rows, scores, before, head.ahead, S::softmax_lines(width));
  A::template add<R>(rows, scores, before, head.ahead);
  head.ahead = Ahead();  // other rows find everything near
}

template <typename V, typename S, typename A, KvType T, int64_t W, int R>
void rest_rows(const DecodeTask& t, HeadPage& head, int64_t row) {
  if constexpr (R > 0) {
    if (t.rows - row == R) return page_rows<V, S, A, T, W, R>(t, head, row);
    rest_rows<V, S, A, T, W, R - 1>(t, head, row);
  }
}

/// Page by page and head by head, the way they lie in memory.
template <typename V, typename S, typename A, KvType T, int64_t W>
void all_pages(const DecodeTask& t) {
  const int64_t width = width_of<W>(t), result = t.rows * (width + 2);
  for (int64_t h = 0; h < t.heads; ++h) {
    float* const out = t.out + h * result;
    fill(out, t.rows * width, 0.0F);
    fill(out + t.rows * width, t.rows, -kInfinity);
    fill(out + t.rows * (width + 1), t.rows, 0.0F);
  }
  for (int64_t begin = t.begin; begin < t.end; begin += kPage) {
    const uint8_t* const* page = t.pages + begin / kPage;
    const uint8_t *const run = *page + t.head_at, *const end = run + t.heads * t.head_bytes,
                         *const next = begin + kPage < t.end ? page[1] + t.head_at : t.next;
    for (int64_t h = 0; h < t.heads; ++h) {
      HeadPage head;
      head.q = t.q + h * t.rows * width * S::kQueryBytes;
      head.q_scale_R = t.q_scale == nullptr ? nullptr : t.q_scale + h * t.rows;
      head.q_offset_R = t.q_offset == nullptr ? nullptr : t.q_offset + h * t.rows;
      head.keys = run + h * t.head_bytes;
      head.begin = begin;
      head.n = least(kPage, t.end - begin);
      head.out = t.out + h * result;
      head.ahead = Ahead(head.keys, end, next);
      int64_t row = 0;
      for (; row + V::kRows <= t.rows; row += V::kRows)
        page_rows<V, S, A, T, W, V::kRows>(t, head, row);
      rest_rows<V, S, A, T, W, V::kRows - 1>(t, head, row);
    }
  }
  for (int64_t h = 0; h < t.heads; ++h) A::finish(t, t.out + h * result);
}

}  // namespace
}  // namespace euromodal::decode
