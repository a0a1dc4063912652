// rms_norm_kernel.cu — RMSNorm on CUDA, forward and backward. Reference: rms_norm_ref.cpp.
// Bound by memory: forward reads x and writes y once (a row stays in L1/L2 between its two passes).
#include "backbone/kernels/cuda/device.h"
#include "backbone/kernels/rms_norm/rms_norm_kernel.h"

namespace euromodal {
namespace {

constexpr int kThreads = 256;

// Sum of squares of a thread's elements, in fp32.
template <typename T>
EM_DEVICE float rms_norm_squares(const T* x, int64_t width, int thread, int threads) {
  float sum = 0.0F;
  for (int64_t d = thread; d < width; d += threads) sum += to_float(x[d]) * to_float(x[d]);
  return sum;
}

// y = round(x · inv) · w: the normalised value is rounded to T before the weight, as transformers
// does.
template <typename T>
EM_DEVICE void rms_norm_scale(const T* x, const T* w, T* y, float inv, int64_t width, int thread,
                              int threads) {
  for (int64_t d = thread; d < width; d += threads) {
    const T normal = from_float<T>(to_float(x[d]) * inv);
    y[d] = from_float<T>(to_float(normal) * to_float(w[d]));
  }
}

// A thread's share of sum(dy · w · x) of a row.
template <typename T>
EM_DEVICE float rms_norm_dot(const T* dy, const T* x, const T* w, int64_t width, int thread,
                             int threads) {
  float sum = 0.0F;
  for (int64_t d = thread; d < width; d += threads)
    sum += to_float(dy[d]) * to_float(w[d]) * to_float(x[d]);
  return sum;
}

// dx = inv · (dy · w - x · inv² · dot / D).
template <typename T>
EM_DEVICE void rms_norm_grad(const T* dy, const T* x, const T* w, T* dx, float inv, float dot,
                             int64_t width, int thread, int threads) {
  const float pull = inv * inv * dot / static_cast<float>(width);
  for (int64_t d = thread; d < width; d += threads) {
    dx[d] = from_float<T>(inv * (to_float(dy[d]) * to_float(w[d]) - to_float(x[d]) * pull));
  }
}

// One column's weight gradient over rows first, first + step, ... : sum of dy · x · inv.
template <typename T>
EM_DEVICE float rms_norm_weight_grad(const T* dy, const T* x, const float* inv, int64_t rows,
                                     int64_t width, int64_t column, int64_t first, int64_t step) {
  float sum = 0.0F;
  for (int64_t t = first; t < rows; t += step)
    sum += to_float(dy[t * width + column]) * to_float(x[t * width + column]) * inv[t];
  return sum;
}

template <typename T>
__global__ void forward_kernel(const T* x, const T* w, T* y, float* inv_rms, int64_t width,
                               float eps) {
  const int64_t row = blockIdx.x;
  __shared__ float scratch[kThreads / 32];
  const float squares =
      block_sum(rms_norm_squares(x + row * width, width, threadIdx.x, blockDim.x), scratch);
  const float inv = rsqrtf(squares / static_cast<float>(width) + eps);
  if (threadIdx.x == 0) inv_rms[row] = inv;
  rms_norm_scale(x + row * width, w, y + row * width, inv, width, threadIdx.x, blockDim.x);
}

template <typename T>
__global__ void backward_kernel(const T* dy, const T* x, const T* w, const float* inv_rms, T* dx,
                                int64_t width) {
  const int64_t row = blockIdx.x;
  __shared__ float scratch[kThreads / 32];
  const float dot = block_sum(
      rms_norm_dot(dy + row * width, x + row * width, w, width, threadIdx.x, blockDim.x), scratch);
  rms_norm_grad(dy + row * width, x + row * width, w, dx + row * width, inv_rms[row], dot, width,
                threadIdx.x, blockDim.x);
}

// Grid (columns / threads, partials): partial p sums the rows p, p + partials, ...
template <typename T>
__global__ void partial_kernel(const T* dy, const T* x, const float* inv_rms, float* partial,
                               int64_t rows, int64_t width) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column < width)
    partial[blockIdx.y * width + column] =
        rms_norm_weight_grad(dy, x, inv_rms, rows, width, column, blockIdx.y, gridDim.y);
}

template <typename T>
__global__ void reduce_kernel(const float* partial, T* dw, int64_t width) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= width) return;
  float sum = 0.0F;
  for (int64_t p = 0; p < kRmsNormPartials; ++p) sum += partial[p * width + column];
  dw[column] = from_float<T>(sum);
}

template <typename T>
cudaError_t forward_as(const RmsNormForwardArgs& a, cudaStream_t stream) {
  EM_LAUNCH(forward_kernel<T>, (static_cast<unsigned>(a.rows)), kThreads, 0, stream,
            static_cast<const T*>(a.x_TD), static_cast<const T*>(a.weight_D),
            static_cast<T*>(a.y_TD), a.inv_rms_T, a.width, a.eps);
  return cudaGetLastError();
}

template <typename T>
cudaError_t backward_as(const RmsNormBackwardArgs& a, cudaStream_t stream) {
  const T* dy = static_cast<const T*>(a.dy_TD);
  const T* x = static_cast<const T*>(a.x_TD);
  EM_LAUNCH(backward_kernel<T>, (static_cast<unsigned>(a.rows)), kThreads, 0, stream, dy, x,
            static_cast<const T*>(a.weight_D), a.inv_rms_T, static_cast<T*>(a.dx_TD), a.width);
  if (a.dweight_D == nullptr) return cudaGetLastError();
  const unsigned blocks = static_cast<unsigned>((a.width + kThreads - 1) / kThreads);
  EM_LAUNCH(partial_kernel<T>, (dim3(blocks, static_cast<unsigned>(kRmsNormPartials))), kThreads, 0,
            stream, dy, x, a.inv_rms_T, a.partial_PD, a.rows, a.width);
  EM_LAUNCH(reduce_kernel<T>, (blocks), kThreads, 0, stream, a.partial_PD,
            static_cast<T*>(a.dweight_D), a.width);
  return cudaGetLastError();
}

}  // namespace

cudaError_t rms_norm_forward(const RmsNormForwardArgs& args, cudaStream_t stream) noexcept {
  if (args.rows == 0 || args.width == 0) return cudaSuccess;
  if (args.rows > INT32_MAX) return cudaErrorInvalidValue;
  return args.type == DType::kF32 ? forward_as<float>(args, stream)
                                  : forward_as<Bf16>(args, stream);
}

cudaError_t rms_norm_backward(const RmsNormBackwardArgs& args, cudaStream_t stream) noexcept {
  if (args.width == 0) return cudaSuccess;
  if (args.rows > INT32_MAX) return cudaErrorInvalidValue;
  if (args.rows == 0 && args.dweight_D == nullptr) return cudaSuccess;
  if (args.rows == 0)
    return cudaMemsetAsync(args.dweight_D, 0,
                           static_cast<size_t>(args.width) * (args.type == DType::kF32 ? 4 : 2),
                           stream);
  return args.type == DType::kF32 ? backward_as<float>(args, stream)
                                  : backward_as<Bf16>(args, stream);
}

}  // namespace euromodal
