// logit_rows.h — what kernels over rows of logits share: exponentials, and a row as vectors of 16
// bytes wherever it starts.
#pragma once
#include "backbone/kernels/cuda/device.h"

namespace euromodal {

// exp of something not above 0, by the hardware's power of two: relative error 2^-22.
EM_DEVICE float exp_low(float x) {
#if defined(__CUDA_ARCH__)
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x * 1.44269504088896340736F));
  return out;
#else
  return exp2f(x * 1.44269504088896340736F);
#endif
}

template <typename T>
EM_DEVICE void widen(const Vec16<T>& v, float (&x)[Vec16<T>::kCount]) {
#pragma unroll
  for (int i = 0; i < Vec16<T>::kCount; ++i) x[i] = to_float(v.v[i]);
}

// A row as scalars up to the first multiple of 16 bytes, vectors, and the scalars behind them.
struct RowParts {
  int64_t head, vectors, tail_begin;
};
template <typename T>
EM_DEVICE RowParts parts_of(const T* row, int64_t vocab) {
  constexpr int64_t kCount = Vec16<T>::kCount;
  const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
  int64_t head = past == 0 ? 0 : kCount - past;
  head = head < vocab ? head : vocab;
  const int64_t vectors = (vocab - head) / kCount;
  return {head, vectors, head + vectors * kCount};
}

}  // namespace euromodal
