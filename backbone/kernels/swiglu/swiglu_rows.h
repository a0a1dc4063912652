// swiglu_rows.h — the forward loop of swiglu() on the CPU, over memory of the caller.
#pragma once
#include <cstdint>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

namespace euromodal {

template <typename T>
struct SwigluRows {
  const T *gate, *up;
  T* y;                // may be one of them
  int64_t begin, end;  // numbers
};

void swiglu_rows(const SwigluRows<float>& rows);
void swiglu_rows(const SwigluRows<double>& rows);
void swiglu_rows(const SwigluRows<c10::BFloat16>& rows);
void swiglu_rows(const SwigluRows<c10::Half>& rows);

}  // namespace euromodal
