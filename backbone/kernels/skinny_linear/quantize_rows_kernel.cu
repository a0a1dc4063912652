// quantize_rows_kernel.cu — see skinny_linear_kernel.h. Integers: a warp a block of 128 inputs, as
// pack_weight() rounds them; fp8: a block of threads a row. Reference: quantize_rows_ref.
#include "backbone/kernels/cuda/device.h"
#include "backbone/kernels/skinny_linear/skinny_layout.h"
#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"

namespace euromodal {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    fp8_kernel(const Bf16* weight_NK, unsigned char* codes, float* scale_N, int64_t K) {
  __shared__ float scratch[kThreads / 32];
  const int64_t row = blockIdx.x, bytes = skinny_row_bytes(DType::kFp8E4M3, K);
  const Bf16* w = weight_NK + row * K;
  float largest = 0.0F;
  for (int64_t k = threadIdx.x; k < K; k += kThreads)
    largest = fmaxf(largest, fabsf(to_float(w[k])));
  largest = block_max(largest, scratch);
  const float scale = largest > 0.0F ? __fdiv_rn(largest, 448.0F) : 1.0F;
  if (threadIdx.x == 0) scale_N[row] = scale;
  for (int64_t k = threadIdx.x; k < bytes; k += kThreads) {
    const float v = k < K ? __fdiv_rn(to_float(w[k]), scale) : 0.0F;
    codes[row * bytes + skinny_byte(DType::kFp8E4M3, k)] =
        __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
  }
}

struct IntegerRows {
  const Bf16* weight_NK;
  unsigned char* codes;
  __half* scale_NG;
  unsigned char* zero_NG;  // null: symmetric
  int64_t N, K, blocks;    // blocks of a row
  int group;
};

/// Folds over the lanes of a group: 8 for 32 inputs, 32 for 128.
template <typename F>
EM_DEVICE float group_fold(float v, int lanes, F&& f) {
  for (int offset = lanes / 2; offset > 0; offset /= 2)
    v = f(v, __shfl_xor_sync(0xffffffffU, v, offset));
  return v;
}

// Lane l of the warp holds inputs 4l .. 4l + 3 of the block.
template <bool kInt4>
__global__ void __launch_bounds__(kThreads) integer_kernel(const __grid_constant__ IntegerRows a) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (at >= a.N * a.blocks) return;  // whole warps
  const int64_t row = at / a.blocks, block = at % a.blocks;
  const int lane = static_cast<int>(threadIdx.x % 32), lanes = a.group / 4;
  const int64_t first = block * kSkinnyBlock + lane * 4;
  float v[4], least = 0.0F, most = 0.0F;
  // A number that is none stays, and shows in the scale.
  const auto smaller = [](float x, float y) { return x < y || x != x ? x : y; };
  const auto larger = [](float x, float y) { return x > y || x != x ? x : y; };
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[i] = first + i < a.K ? to_float(a.weight_NK[row * a.K + first + i]) : 0.0F;
    least = smaller(v[i], least);
    most = larger(v[i], most);
  }
  least = group_fold(least, lanes, smaller);
  most = group_fold(most, lanes, larger);
  constexpr float kTop = kInt4 ? 15.0F : 255.0F, kMiddle = kInt4 ? 8.0F : 128.0F;
  float scale = 0.0F, zero = kMiddle;
  if (a.zero_NG != nullptr) {
    scale = __fdiv_rn(most - least, kTop);
  } else if (kInt4) {
    scale = __fdiv_rn(most > -least ? most : least, -8.0F);
  } else {
    scale = __fdiv_rn(fmaxf(most, -least), 127.0F);
  }
  const __half stored = from_float<__half>(scale);
  const float step = to_float(stored), inverse = step == 0.0F ? 0.0F : __fdiv_rn(1.0F, step);
  if (a.zero_NG != nullptr) {
    zero = rintf(__fmul_rn(-least, inverse));
    zero = zero > kTop ? kTop : zero;
  }
  if (lane % lanes == 0) {
    const int64_t g = at * (kSkinnyBlock / a.group) + lane / lanes;
    a.scale_NG[g] = stored;
    if (a.zero_NG != nullptr)
      a.zero_NG[g] = static_cast<unsigned char>(static_cast<int>(zero) - (kInt4 ? 0 : 128));
  }
  unsigned code[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float c = rintf(__fmul_rn(v[i], inverse)) + zero;
    c = c > 0.0F ? c : 0.0F;  // 0 also where there is no number
    code[i] = static_cast<unsigned>(c > kTop ? kTop : c);
  }
  constexpr DType kType = kInt4 ? DType::kInt4 : DType::kInt8;
  unsigned char* out = a.codes + row * a.blocks * (kInt4 ? 64 : 128) + skinny_byte(kType, first);
  if constexpr (kInt4) {
    out[0] = static_cast<unsigned char>(code[0] | (code[1] << 4));
    out[1] = static_cast<unsigned char>(code[2] | (code[3] << 4));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = static_cast<unsigned char>(code[i] ^ 0x80U);
  }
}

}  // namespace

cudaError_t quantize_rows(const QuantizeRowsArgs& a, cudaStream_t stream) noexcept {
  if (a.N == 0 || a.K == 0) return cudaSuccess;
  if (a.N < 0 || a.K < 0 || a.N > INT32_MAX) return cudaErrorInvalidValue;
  const auto* weight = static_cast<const Bf16*>(a.weight_NK);
  auto* codes = static_cast<unsigned char*>(a.codes);
  if (a.type == DType::kFp8E4M3) {
    EM_LAUNCH(fp8_kernel, static_cast<unsigned>(a.N), kThreads, 0, stream, weight, codes,
              static_cast<float*>(a.scale), a.K);
    return cudaGetLastError();
  }
  const bool int4 = a.type == DType::kInt4;
  if ((!int4 && a.type != DType::kInt8) || (a.group != 32 && a.group != 128))
    return cudaErrorInvalidValue;
  const IntegerRows rows{weight,
                         codes,
                         static_cast<__half*>(a.scale),
                         static_cast<unsigned char*>(a.zero),
                         a.N,
                         a.K,
                         skinny_blocks(a.K),
                         a.group};
  const int64_t warps = rows.N * rows.blocks,
                blocks = (warps + kThreads / 32 - 1) / (kThreads / 32);
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  if (int4) {
    EM_LAUNCH(integer_kernel<true>, static_cast<unsigned>(blocks), kThreads, 0, stream, rows);
  } else {
    EM_LAUNCH(integer_kernel<false>, static_cast<unsigned>(blocks), kThreads, 0, stream, rows);
  }
  return cudaGetLastError();
}

}  // namespace euromodal
