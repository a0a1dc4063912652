// norm_rows.h — the kernels of RMSNorm and layer norm, forward and backward, as norm_rows.cpp is
// their CPU form. With xhat = (x - mean) · inv and g = dy · w:
//   dx = inv · (g - mean(g) - xhat · mean(g · xhat))   (RMSNorm: without mean and mean(g))
//   dw = sum over rows of dy · xhat,  db = sum over rows of dy
//
// Bound by memory. A row stays in the registers of its block between its passes, so that x (and dy)
// are read once. The same pass over dy and x also sums dw and db: each of a fixed number of blocks
// takes every so-manieth row and keeps its sums in registers; a second kernel adds the blocks'
// sums. All in a fixed order: the same bits on every run.
#pragma once
#include "backbone/kernels/cuda/norm_partials.h"
#include "backbone/kernels/cuda/packs.h"

namespace euromodal {

template <typename T>
struct NormForwardRows {
  const T *x, *weight, *bias;  // bias: layer norm only
  T* y;
  float *mean, *inv;  // of each row; mean: layer norm only
  int64_t rows, width;
  float eps;
};

template <typename T>
struct NormBackwardRows {
  const T *dy, *x, *weight;
  const float *mean, *inv;
  T* dx;
  float *weight_sums, *bias_sums;  // [min(rows, kNormPartials), width]; null: not wanted
  int64_t rows, width;
};

constexpr int kNormMaxThreads = 384;
constexpr int kNormKept = 4;  // packs of a row that a thread keeps

/// A thread's share of a row: in registers where kKept, else read again in every pass.
template <typename T, int N, bool kKept>
struct NormShare {
  const T* row;
  int64_t width, first, step;
  Pack<T, N> kept[kKept ? kNormKept : 1];

  EM_DEVICE NormShare(const T* from, int64_t elements)
      : row(from), width(elements), first(int64_t{threadIdx.x} * N), step(int64_t{blockDim.x} * N) {
    if constexpr (kKept) {
#pragma unroll
      for (int k = 0; k < kNormKept; ++k)
        if (first + k * step < width) kept[k] = load_pack<N>(row + first + k * step);
    }
  }
  /// f(k, position, pack) for each pack; k counts them.
  template <typename F>
  EM_DEVICE void each(F&& f) const {
    if constexpr (kKept) {
#pragma unroll
      for (int k = 0; k < kNormKept; ++k)
        if (first + k * step < width) f(k, first + k * step, kept[k]);
    } else {
      for (int64_t d = first; d < width; d += step) f(0, d, load_pack<N>(row + d));
    }
  }
};

template <bool kCentre, int N, bool kKept, typename T>
__global__ void __launch_bounds__(kNormMaxThreads)
    norm_forward_kernel(const __grid_constant__ NormForwardRows<T> a) {
  __shared__ float scratch[kNormMaxThreads / 32];
  const int64_t row = blockIdx.x;
  const NormShare<T, N, kKept> x(a.x + row * a.width, a.width);
  const auto width = static_cast<float>(a.width);
  float mean = 0.0F;
  if constexpr (kCentre) {
    float sum = 0.0F;
    x.each([&](int, int64_t, const Pack<T, N>& pack) {
#pragma unroll
      for (int n = 0; n < N; ++n) sum += to_float(pack.v[n]);
    });
    mean = block_sum(sum, scratch) / width;
  }
  float squares = 0.0F;
  x.each([&](int, int64_t, const Pack<T, N>& pack) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float v = to_float(pack.v[n]) - mean;
      squares += v * v;
    }
  });
  const float inv = rsqrtf(block_sum(squares, scratch) / width + a.eps);
  if (threadIdx.x == 0) {
    if constexpr (kCentre) a.mean[row] = mean;
    a.inv[row] = inv;
  }
  T* y = a.y + row * a.width;
  x.each([&](int, int64_t d, const Pack<T, N>& pack) {
    const Pack<T, N> w = load_pack<N>(a.weight + d);
    Pack<T, N> out;
    if constexpr (kCentre) {  // rounded once
      const Pack<T, N> b = load_pack<N>(a.bias + d);
#pragma unroll
      for (int n = 0; n < N; ++n)
        out.v[n] =
            from_float<T>((to_float(pack.v[n]) - mean) * inv * to_float(w.v[n]) + to_float(b.v[n]));
    } else {  // rounded before the weight, as transformers' LlamaRMSNorm
#pragma unroll
      for (int n = 0; n < N; ++n)
        out.v[n] = from_float<T>(rounded<T>(to_float(pack.v[n]) * inv) * to_float(w.v[n]));
    }
    store_pack(y + d, out);
  });
}

/// Block b takes the rows b, b + blocks, ...
template <bool kCentre, int N, bool kKept, bool kSums, typename T>
__global__ void __launch_bounds__(kNormMaxThreads)
    norm_backward_kernel(const __grid_constant__ NormBackwardRows<T> a) {
  __shared__ float scratch[2][kNormMaxThreads / 32];
  constexpr int kSumPacks = kSums && kKept ? kNormKept : 1;
  [[maybe_unused]] float weight_sum[kSumPacks][N] = {}, bias_sum[kSumPacks][N] = {};
  const auto width = static_cast<float>(a.width);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const NormShare<T, N, kKept> dy(a.dy + row * a.width, a.width), x(a.x + row * a.width, a.width);
    const auto x_at = [&]([[maybe_unused]] int k, [[maybe_unused]] int64_t d) {
      if constexpr (kKept) return x.kept[k];
      return load_pack<N>(x.row + d);
    };
    const float mean = kCentre ? a.mean[row] : 0.0F, inv = a.inv[row];
    float sum = 0.0F, dot = 0.0F;
    dy.each([&](int k, int64_t d, const Pack<T, N>& gradient) {
      const Pack<T, N> value = x_at(k, d), w = load_pack<N>(a.weight + d);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const float g = to_float(gradient.v[n]) * to_float(w.v[n]);
        sum += g;
        dot += g * ((to_float(value.v[n]) - mean) * inv);
      }
    });
    const float mean_dot = block_sum(dot, scratch[0]) / width,
                mean_g = kCentre ? block_sum(sum, scratch[1]) / width : 0.0F;
    T* dx = a.dx + row * a.width;
    dy.each([&](int k, int64_t d, const Pack<T, N>& gradient) {
      const Pack<T, N> value = x_at(k, d), w = load_pack<N>(a.weight + d);
      Pack<T, N> out;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const float up = to_float(gradient.v[n]), xhat = (to_float(value.v[n]) - mean) * inv;
        out.v[n] = from_float<T>(inv * (up * to_float(w.v[n]) - mean_g - xhat * mean_dot));
        if constexpr (kSums && kKept) {
          weight_sum[k][n] += up * xhat;
          if constexpr (kCentre) bias_sum[k][n] += up;
        } else if constexpr (kSums) {  // in memory: a thread meets the same columns in every row
          const int64_t at = blockIdx.x * a.width + d + n;
          const bool first = row == blockIdx.x;
          if (a.weight_sums != nullptr)
            a.weight_sums[at] = (first ? 0.0F : a.weight_sums[at]) + up * xhat;
          if (kCentre && a.bias_sums != nullptr)
            a.bias_sums[at] = (first ? 0.0F : a.bias_sums[at]) + up;
        }
      }
      if (a.dx != nullptr) store_pack(dx + d, out);
    });
  }
  if constexpr (kSums && kKept) {
    const int64_t first = int64_t{threadIdx.x} * N, step = int64_t{blockDim.x} * N;
#pragma unroll
    for (int k = 0; k < kNormKept; ++k) {
      const int64_t d = first + k * step;
      if (d >= a.width) continue;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const int64_t at = blockIdx.x * a.width + d + n;
        if (a.weight_sums != nullptr) a.weight_sums[at] = weight_sum[k][n];
        if (kCentre && a.bias_sums != nullptr) a.bias_sums[at] = bias_sum[k][n];
      }
    }
  }
}

constexpr int kNormColumns = 32, kNormSlices = 8;  // of a block that adds partial sums

/// out[column] = sum over the partial sums: slice s adds rows s, s + kNormSlices, ..., then the
/// slices are added in order. Block (32, 8): 32 columns.
template <typename T>
__global__ void __launch_bounds__(kNormColumns* kNormSlices)
    norm_add_partials_kernel(const float* partial, T* out, int64_t partials, int64_t width) {
  __shared__ float sums[kNormSlices][kNormColumns];
  const int64_t column = int64_t{blockIdx.x} * kNormColumns + threadIdx.x;
  float sum = 0.0F;
  if (column < width)
    for (int64_t p = threadIdx.y; p < partials; p += kNormSlices)
      sum += partial[p * width + column];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  for (int s = 1; s < kNormSlices; ++s) sum += sums[s][threadIdx.x];
  out[column] = from_float<T>(sum);
}

/// Threads for a row of `packs` packs; 0 where a block cannot keep it.
inline unsigned norm_threads(int64_t packs) {
  const int64_t threads = ((packs + kNormKept - 1) / kNormKept + 31) / 32 * 32;
  if (threads > kNormMaxThreads) return 0;
  return static_cast<unsigned>(threads < 128 && packs > 128 ? 128 : threads);
}

/// For a row read element by element.
inline unsigned norm_scalar_threads(int64_t width) {
  return static_cast<unsigned>(width >= 256 ? 256 : (width + 31) / 32 * 32);
}

template <bool kCentre, typename T>
cudaError_t launch_norm_forward(const NormForwardRows<T>& a, cudaStream_t stream) {
  if (a.rows > INT32_MAX) return cudaErrorInvalidValue;
  if (a.rows == 0 || a.width == 0) return cudaSuccess;
  const bool wide = allows_wide(a.x, a.width) && allows_wide(a.y) && allows_wide(a.weight) &&
                    (a.bias == nullptr || allows_wide(a.bias));
  const unsigned blocks = static_cast<unsigned>(a.rows), threads = norm_threads(a.width / kWide<T>);
  if (wide && threads != 0)
    EM_LAUNCH((norm_forward_kernel<kCentre, kWide<T>, true, T>), blocks, threads, 0, stream, a);
  else
    EM_LAUNCH((norm_forward_kernel<kCentre, 1, false, T>), blocks, norm_scalar_threads(a.width), 0,
              stream, a);
  return cudaGetLastError();
}

template <bool kCentre, bool kSums, typename T>
cudaError_t launch_norm_backward_rows(const NormBackwardRows<T>& a, cudaStream_t stream) {
  const bool wide = allows_wide(a.x, a.width) && allows_wide(a.dy) && allows_wide(a.weight) &&
                    (a.dx == nullptr || allows_wide(a.dx));
  const unsigned blocks = static_cast<unsigned>(kSums && a.rows > kNormPartials ? kNormPartials
                                                                                : a.rows),
                 threads = norm_threads(a.width / kWide<T>);
  if (wide && threads != 0)
    EM_LAUNCH((norm_backward_kernel<kCentre, kWide<T>, true, kSums, T>), blocks, threads, 0, stream,
              a);
  else
    EM_LAUNCH((norm_backward_kernel<kCentre, 1, false, kSums, T>), blocks,
              norm_scalar_threads(a.width), 0, stream, a);
  return cudaGetLastError();
}

/// dweight and dbias: null where not wanted, with sums of `a` likewise.
template <bool kCentre, typename T>
cudaError_t launch_norm_backward(const NormBackwardRows<T>& a, T* dweight, T* dbias,
                                 cudaStream_t stream) {
  if (a.rows > INT32_MAX) return cudaErrorInvalidValue;
  if (a.width == 0) return cudaSuccess;
  const bool sums = dweight != nullptr || dbias != nullptr;
  if (a.rows > 0 && (sums || a.dx != nullptr)) {
    const cudaError_t error = sums ? launch_norm_backward_rows<kCentre, true>(a, stream)
                                   : launch_norm_backward_rows<kCentre, false>(a, stream);
    if (error != cudaSuccess) return error;
  }
  const int64_t partials = a.rows < kNormPartials ? a.rows : kNormPartials;
  const auto blocks = static_cast<unsigned>((a.width + kNormColumns - 1) / kNormColumns);
  const auto add = [&](const float* partial, T* out) {
    if (out == nullptr) return;
    EM_LAUNCH(norm_add_partials_kernel<T>, blocks, (dim3(kNormColumns, kNormSlices)), 0, stream,
              partial, out, partials, a.width);
  };
  add(a.weight_sums, dweight);
  add(a.bias_sums, dbias);
  return cudaGetLastError();
}

}  // namespace euromodal
