// small_gemm.h — C = A B for the small matrices of one short sample (a few dozen rows), where a
// library call costs more than the product. B and C are padded to whole vectors in their columns; A
// is read one scalar at a time by any strides, so a transposed A is free.
#pragma once
#include <algorithm>
#include <cstdint>

namespace euromodal::small {

template <typename A>
inline constexpr int64_t kLanes = 64 / static_cast<int64_t>(sizeof(A));

template <typename A>
[[gnu::always_inline]] inline int64_t padded(int64_t columns) {
  return (columns + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

/// Which part of a product with a causal (lower triangular) matrix is needed.
enum class Causal {
  kNone,
  kColumnsUpToRow,  // C itself is triangular: columns <= row + before
  kSumUpToRow,      // A is triangular: the sum runs over k <= row + before
  kSumFromRow       // A is the transpose of a triangular matrix: k >= row
};

template <typename A>
struct Gemm {
  const A* a;  // element (i, k) at a[i * a_row + k * a_column]
  int64_t a_row, a_column;
  const A* b;  // [k, columns], rows ldb apart
  int64_t ldb;
  A* c;  // [rows, columns], rows ldc apart
  int64_t ldc;
  int64_t rows, columns, sum;  // columns: rounded up to whole vectors by run()
  Causal causal = Causal::kNone;
  int64_t before = 0;  // columns of the triangular matrix that every row has
};

template <typename A, int64_t kRows>
[[gnu::always_inline]] inline void gemm_rows(const Gemm<A>& g, int64_t i0) {
  typedef A Vector __attribute__((vector_size(64)));
  int64_t begin = 0, end = g.sum, columns = padded<A>(g.columns);
  if (g.causal == Causal::kColumnsUpToRow)
    columns = std::min(columns, padded<A>(i0 + kRows + g.before));
  if (g.causal == Causal::kSumUpToRow) end = std::min(end, i0 + kRows + g.before);
  if (g.causal == Causal::kSumFromRow) begin = i0;
  for (int64_t j = 0; j < columns; j += kLanes<A>) {
    Vector sums[kRows] = {};
    for (int64_t k = begin; k < end; ++k) {
      Vector b;
      __builtin_memcpy(&b, g.b + k * g.ldb + j, sizeof(Vector));
      const A* a = g.a + i0 * g.a_row + k * g.a_column;
#pragma GCC unroll 8
      for (int64_t i = 0; i < kRows; ++i) sums[i] += a[i * g.a_row] * b;
    }
#pragma GCC unroll 8
    for (int64_t i = 0; i < kRows; ++i)
      __builtin_memcpy(g.c + (i0 + i) * g.ldc + j, &sums[i], sizeof(Vector));
  }
}

template <typename A>
[[gnu::always_inline]] inline void run(const Gemm<A>& g) {
  int64_t i = 0;
  for (; i + 6 <= g.rows; i += 6) gemm_rows<A, 6>(g, i);
  for (; i + 2 <= g.rows; i += 2) gemm_rows<A, 2>(g, i);
  for (; i < g.rows; ++i) gemm_rows<A, 1>(g, i);
}

}  // namespace euromodal::small
