// quantize_rows_kernel.cu — see skinny_linear_kernel.h. A warp a group of int4, a block a row of
// fp8 and int8. Reference: quantize_rows_ref.
#include "backbone/kernels/cuda/device.h"
#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"

namespace euromodal {
namespace {

constexpr int kThreads = 256;

EM_DEVICE signed char int8_code(float v) {
  const int code = __float2int_rn(v);
  return static_cast<signed char>(code < -127 ? -127 : code > 127 ? 127 : code);
}

template <bool kFp8>
__global__ void __launch_bounds__(kThreads)
    row_kernel(const Bf16* weight_NK, unsigned char* codes_NK, float* scale_N, int64_t K) {
  __shared__ float scratch[kThreads / 32];
  const int64_t row = blockIdx.x;
  const Bf16* w = weight_NK + row * K;
  float largest = 0.0F;
  for (int64_t k = threadIdx.x; k < K; k += kThreads)
    largest = fmaxf(largest, fabsf(to_float(w[k])));
  largest = block_max(largest, scratch);
  const float scale = largest > 0.0F ? __fdiv_rn(largest, kFp8 ? 448.0F : 127.0F) : 1.0F;
  if (threadIdx.x == 0) scale_N[row] = scale;
  for (int64_t k = threadIdx.x; k < K; k += kThreads) {
    const float v = __fdiv_rn(to_float(w[k]), scale);
    unsigned char code = 0;
    if constexpr (kFp8) {
      code = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
    } else {
      code = static_cast<unsigned char>(int8_code(v));
    }
    codes_NK[row * K + k] = code;
  }
}

// Lane l of the warp holds elements 4l .. 4l + 3 of the group.
__global__ void __launch_bounds__(kThreads)
    group_kernel(const Bf16* weight_NK, unsigned char* codes, Bf16* scale_NG, int64_t groups) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (group >= groups) return;  // whole warps
  float v[4];
  float largest = 0.0F;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[i] = to_float(weight_NK[group * 128 + lane * 4 + i]);
    largest = fmaxf(largest, fabsf(v[i]));
  }
  largest = warp_max(largest);
  Bf16 scale = from_float<Bf16>(largest > 0.0F ? __fdiv_rn(largest, 7.0F) : 1.0F);
  if (to_float(scale) == 0.0F) scale = from_float<Bf16>(1.0F);  // too small for bf16
  if (lane == 0) scale_NG[group] = scale;
  int code[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int c = __float2int_rn(__fdiv_rn(v[i], to_float(scale))) + 8;
    code[i] = c < 0 ? 0 : c > 15 ? 15 : c;
  }
  codes[group * 64 + lane * 2] = static_cast<unsigned char>(code[0] | (code[1] << 4));
  codes[group * 64 + lane * 2 + 1] = static_cast<unsigned char>(code[2] | (code[3] << 4));
}

}  // namespace

cudaError_t quantize_rows(const QuantizeRowsArgs& a, cudaStream_t stream) noexcept {
  if (a.N == 0 || a.K == 0) return cudaSuccess;
  if (a.N < 0 || a.K < 0 || a.N > INT32_MAX) return cudaErrorInvalidValue;
  const auto* weight = static_cast<const Bf16*>(a.weight_NK);
  auto* codes = static_cast<unsigned char*>(a.codes);
  if (a.type == DType::kFp8E4M3) {
    EM_LAUNCH(row_kernel<true>, static_cast<unsigned>(a.N), kThreads, 0, stream, weight, codes,
              static_cast<float*>(a.scale), a.K);
  } else if (a.type == DType::kInt8) {
    EM_LAUNCH(row_kernel<false>, static_cast<unsigned>(a.N), kThreads, 0, stream, weight, codes,
              static_cast<float*>(a.scale), a.K);
  } else if (a.type == DType::kInt4) {
    if (a.group != 128 || a.K % 128 != 0) return cudaErrorInvalidValue;
    const int64_t groups = a.N * (a.K / 128),
                  blocks = (groups + kThreads / 32 - 1) / (kThreads / 32);
    if (blocks > INT32_MAX) return cudaErrorInvalidValue;
    EM_LAUNCH(group_kernel, static_cast<unsigned>(blocks), kThreads, 0, stream, weight, codes,
              static_cast<Bf16*>(a.scale), groups);
  } else {
    return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

}  // namespace euromodal
