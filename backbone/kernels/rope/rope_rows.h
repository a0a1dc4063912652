// rope_rows.h — the loops of rope() on the CPU, over memory of the caller. T rows, H heads of width
// N.
#pragma once
#include <cstdint>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

namespace euromodal {

template <typename T>
struct RopeRows {
  const T* x;
  int64_t row, head;       // strides of x; a head is contiguous
  T* y;                    // [T, heads, N] contiguous; may be x where that is so
  const float *cos, *sin;  // [P, N]
  const int64_t* positions;
  int64_t begin, end, heads, width;
  bool inverse;
};

/// Rows [begin, end).
void rope_rows(const RopeRows<float>& rows);
void rope_rows(const RopeRows<double>& rows);
void rope_rows(const RopeRows<c10::BFloat16>& rows);
void rope_rows(const RopeRows<c10::Half>& rows);

}  // namespace euromodal
