// rms_norm_math.h — the arithmetic of the RMSNorm kernels, one thread's share of one row, usable on
// the host too: the tests run it thread by thread without a GPU. A block of kRmsNormThreads threads
// owns a row; thread t takes elements t, t + threads, ...
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define EM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define EM_HOST_DEVICE inline
#endif

namespace euromodal {

constexpr int kRmsNormThreads = 256;

/// Sum of squares of a thread's elements, in fp32.
template <typename T>
EM_HOST_DEVICE float rms_norm_squares(const T* x, int64_t width, int thread, int threads) {
  float sum = 0.0F;
  for (int64_t d = thread; d < width; d += threads)
    sum += static_cast<float>(x[d]) * static_cast<float>(x[d]);
  return sum;
}

/// y = round(x · inv) · w: the normalised value is rounded to T before the weight, as transformers
/// does.
template <typename T>
EM_HOST_DEVICE void rms_norm_scale(const T* x, const T* w, T* y, float inv, int64_t width,
                                   int thread, int threads) {
  for (int64_t d = thread; d < width; d += threads) {
    const T normal = static_cast<T>(static_cast<float>(x[d]) * inv);
    y[d] = static_cast<T>(static_cast<float>(normal) * static_cast<float>(w[d]));
  }
}

/// A thread's share of sum(dy · w · x) of a row.
template <typename T>
EM_HOST_DEVICE float rms_norm_dot(const T* dy, const T* x, const T* w, int64_t width, int thread,
                                  int threads) {
  float sum = 0.0F;
  for (int64_t d = thread; d < width; d += threads)
    sum += static_cast<float>(dy[d]) * static_cast<float>(w[d]) * static_cast<float>(x[d]);
  return sum;
}

/// dx = inv · (dy · w - x · inv² · dot / D).
template <typename T>
EM_HOST_DEVICE void rms_norm_grad(const T* dy, const T* x, const T* w, T* dx, float inv, float dot,
                                  int64_t width, int thread, int threads) {
  const float pull = inv * inv * dot / static_cast<float>(width);
  for (int64_t d = thread; d < width; d += threads) {
    dx[d] = static_cast<T>(inv * (static_cast<float>(dy[d]) * static_cast<float>(w[d]) -
                                  static_cast<float>(x[d]) * pull));
  }
}

/// One column's weight gradient over rows first, first + step, ... : sum of dy · x · inv.
template <typename T>
EM_HOST_DEVICE float rms_norm_weight_grad(const T* dy, const T* x, const float* inv, int64_t rows,
                                          int64_t width, int64_t column, int64_t first,
                                          int64_t step) {
  float sum = 0.0F;
  for (int64_t t = first; t < rows; t += step)
    sum += static_cast<float>(dy[t * width + column]) * static_cast<float>(x[t * width + column]) *
           inv[t];
  return sum;
}

}  // namespace euromodal
