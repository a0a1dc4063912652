// rope_rows.cpp — see rope_rows.h. With halves a, b of a head:
//   y_a = a cos - b sin, y_b = b cos + a sin
// Products are rounded to the dtype before they are added, as transformers' tensors are.
#include "backbone/kernels/rope/rope_rows.h"

#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

template <typename T>
[[gnu::always_inline]] inline void rotate_rows(const RopeRows<T>& a) {
  using A = Acc<T>;
  const int64_t half = a.width / 2;
  const float sign = a.inverse ? -1.0F : 1.0F;
  for (int64_t t = a.begin; t < a.end; ++t) {
    const float* cos = a.cos + a.positions[t] * a.width;
    const float* sin = a.sin + a.positions[t] * a.width;
    for (int64_t h = 0; h < a.heads; ++h) {
      const T* x = a.x + t * a.row + h * a.head;
      T* y = a.y + (t * a.heads + h) * a.width;
#pragma omp simd
      for (int64_t n = 0; n < half; ++n) {
        // the table rounded to x's dtype; both halves of a table row are alike
        const A c = rounded_to<T>(cos[n]);
        const A s = rounded_to<T>(sign * sin[n]);
        const A first = static_cast<A>(x[n]), second = static_cast<A>(x[half + n]);
        put_rounded(y, n, rounded_to<T>(first * c) - rounded_to<T>(second * s));
        put_rounded(y, half + n, rounded_to<T>(second * c) + rounded_to<T>(first * s));
      }
    }
  }
}

}  // namespace

EM_CPU_CLONES void rope_rows(const RopeRows<float>& a) { rotate_rows(a); }
EM_CPU_CLONES void rope_rows(const RopeRows<c10::BFloat16>& a) { rotate_rows(a); }
void rope_rows(const RopeRows<c10::Half>& a) { rotate_rows(a); }
void rope_rows(const RopeRows<double>& a) { rotate_rows(a); }

}  // namespace euromodal
