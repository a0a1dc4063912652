// rms_norm_kernel.cu — RMSNorm on CUDA, forward and backward. Reference: rms_norm_ref.cpp.
// Arithmetic: rms_norm_math.h (tested on the host). Bound by memory: forward reads x and writes y
// once (a row stays in L1/L2 between its two passes).
#include <cuda_bf16.h>

#include "backbone/kernels/rms_norm/rms_norm_kernel.h"
#include "backbone/kernels/rms_norm/rms_norm_math.h"

namespace euromodal {
namespace {

// Sum over the block in a fixed tree: same bits every time. Every thread gets the result.
__device__ float block_sum(float value) {
  __shared__ float warp_sums[kRmsNormThreads / 32];
  for (int offset = 16; offset > 0; offset >>= 1)
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0.0F;
  for (int w = 0; w < kRmsNormThreads / 32; ++w) total += warp_sums[w];
  __syncthreads();
  return total;
}

template <typename T>
__global__ void forward_kernel(const T* x, const T* w, T* y, float* inv_rms, int64_t width,
                               float eps) {
  const int64_t row = blockIdx.x;
  const float squares =
      block_sum(rms_norm_squares(x + row * width, width, threadIdx.x, blockDim.x));
  const float inv = rsqrtf(squares / static_cast<float>(width) + eps);
  if (threadIdx.x == 0) inv_rms[row] = inv;
  rms_norm_scale(x + row * width, w, y + row * width, inv, width, threadIdx.x, blockDim.x);
}

template <typename T>
__global__ void backward_kernel(const T* dy, const T* x, const T* w, const float* inv_rms, T* dx,
                                int64_t width) {
  const int64_t row = blockIdx.x;
  const float dot =
      block_sum(rms_norm_dot(dy + row * width, x + row * width, w, width, threadIdx.x, blockDim.x));
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
  dw[column] = static_cast<T>(sum);
}

template <typename T>
cudaError_t forward_as(const RmsNormForwardArgs& a, cudaStream_t stream) {
  forward_kernel<T><<<static_cast<unsigned>(a.rows), kRmsNormThreads, 0, stream>>>(
      static_cast<const T*>(a.x_TD), static_cast<const T*>(a.weight_D), static_cast<T*>(a.y_TD),
      a.inv_rms_T, a.width, a.eps);
  return cudaGetLastError();
}

template <typename T>
cudaError_t backward_as(const RmsNormBackwardArgs& a, cudaStream_t stream) {
  const T* dy = static_cast<const T*>(a.dy_TD);
  const T* x = static_cast<const T*>(a.x_TD);
  backward_kernel<T><<<static_cast<unsigned>(a.rows), kRmsNormThreads, 0, stream>>>(
      dy, x, static_cast<const T*>(a.weight_D), a.inv_rms_T, static_cast<T*>(a.dx_TD), a.width);
  const unsigned blocks = static_cast<unsigned>((a.width + kRmsNormThreads - 1) / kRmsNormThreads);
  partial_kernel<T>
      <<<dim3(blocks, static_cast<unsigned>(kRmsNormPartials)), kRmsNormThreads, 0, stream>>>(
          dy, x, a.inv_rms_T, a.partial_PD, a.rows, a.width);
  reduce_kernel<T>
      <<<blocks, kRmsNormThreads, 0, stream>>>(a.partial_PD, static_cast<T*>(a.dweight_D), a.width);
  return cudaGetLastError();
}

}  // namespace

cudaError_t rms_norm_forward(const RmsNormForwardArgs& args, cudaStream_t stream) noexcept {
  if (args.rows == 0 || args.width == 0) return cudaSuccess;
  if (args.rows > INT32_MAX) return cudaErrorInvalidValue;
  return args.type == RmsNormType::kF32 ? forward_as<float>(args, stream)
                                        : forward_as<__nv_bfloat16>(args, stream);
}

cudaError_t rms_norm_backward(const RmsNormBackwardArgs& args, cudaStream_t stream) noexcept {
  if (args.width == 0) return cudaSuccess;
  if (args.rows > INT32_MAX) return cudaErrorInvalidValue;
  if (args.rows == 0)
    return cudaMemsetAsync(
        args.dweight_D, 0,
        static_cast<size_t>(args.width) * (args.type == RmsNormType::kF32 ? 4 : 2), stream);
  return args.type == RmsNormType::kF32 ? backward_as<float>(args, stream)
                                        : backward_as<__nv_bfloat16>(args, stream);
}

}  // namespace euromodal
