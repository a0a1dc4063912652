// float8_widen_kernel.cu — see float8_widen_kernel.h. Bound by memory: a block takes a piece of one
// row, a thread 16 bytes of the result at a time, several under way. Reference: widen_float8() on
// the host.
#include "backbone/kernels/cuda/packs.h"
#include "backbone/kernels/cuda/row_pieces.h"
#include "backbone/kernels/linear/float8_widen_kernel.h"

namespace euromodal {
namespace {

constexpr int kThreads = 256;
constexpr int kPacks = 4;  // of a thread

struct Byte {
  unsigned char bits;
};

EM_DEVICE float number_of(Byte code) {
  __nv_fp8_e4m3 number;
  number.__x = code.bits;
  return to_float(number);
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads) widen_kernel(const __grid_constant__ Float8WidenArgs a,
                                                         const __grid_constant__ RowPieces pieces) {
  const int64_t row = pieces.row(blockIdx.x), begin = pieces.begin(blockIdx.x),
                end = pieces.end(blockIdx.x);
  const auto* codes = static_cast<const Byte*>(a.codes_OI) + row * a.I;
  T* out = static_cast<T*>(a.out_OI) + row * a.I;
  const float scale = a.scale_O[row];
  Pack<Byte, N> code[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int64_t i = begin + (int64_t{p} * kThreads + threadIdx.x) * N;
    if (i < end) code[p] = load_pack<N>(codes + i);
  }
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int64_t i = begin + (int64_t{p} * kThreads + threadIdx.x) * N;
    if (i >= end) continue;
    Pack<T, N> number;
#pragma unroll
    for (int n = 0; n < N; ++n) number.v[n] = from_float<T>(number_of(code[p].v[n]) * scale);
    store_pack(out + i, number);
  }
}

template <typename T, int N>
cudaError_t widen_packs(const Float8WidenArgs& a, cudaStream_t stream) {
  const RowPieces pieces{a.O, a.I, int64_t{kThreads} * kPacks * N};
  if (pieces.count() > INT32_MAX) return cudaErrorInvalidValue;
  EM_LAUNCH((widen_kernel<T, N>), static_cast<unsigned>(pieces.count()), kThreads, 0, stream, a,
            pieces);
  return cudaGetLastError();
}

}  // namespace

cudaError_t float8_widen(const Float8WidenArgs& a, cudaStream_t stream) noexcept {
  if (a.O == 0 || a.I == 0) return cudaSuccess;
  if (a.O < 0 || a.I < 0) return cudaErrorInvalidValue;
  return for_kernel_dtype(a.type, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kWidth = kWide<T>;  // codes to 16 bytes of the result
    const bool wide = a.I % kWidth == 0 && allows_wide(static_cast<const T*>(a.out_OI)) &&
                      reinterpret_cast<uintptr_t>(a.codes_OI) % kWidth == 0;
    return wide ? widen_packs<T, kWidth>(a, stream) : widen_packs<T, 1>(a, stream);
  });
}

}  // namespace euromodal
