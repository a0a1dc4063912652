// rope_kernel.cu — see rope_kernel.h. Reference: rope_ref.cpp. A block a row: thread (x, y) takes
// pack x of the frequencies, for which it reads the table once, in the heads y, y + threads, ...
#include <cmath>

#include "backbone/kernels/cuda/packs.h"
#include "backbone/kernels/rope/rope_kernel.h"

namespace euromodal {
namespace {

constexpr int kRopeThreads = 256;

template <typename T, int N>
struct RopeTurn {
  float c[N], s[N];  // rounded to T
};

template <typename T, int N>
EM_DEVICE RopeTurn<T, N> turn_of(const RopeRotateArgs& a, int64_t t, int64_t first) {
  RopeTurn<T, N> out;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const int64_t at = a.mrope ? mrope_axis(a.sections, first + n) * a.T + t : t;
    const int64_t position = a.position_T[at];
    const bool inside = position >= 0 && position < a.P;
    const int64_t entry = position * a.N + first + n;
    const float s = inside ? a.sin_PN[entry] : NAN;
    out.c[n] = rounded<T>(inside ? a.cos_PN[entry] : NAN);
    out.s[n] = rounded<T>(a.inverse ? -s : s);
  }
  return out;
}

template <typename T, int N>
__global__ void __launch_bounds__(1024) rope_kernel(const __grid_constant__ RopeRotateArgs a) {
  const int64_t t = blockIdx.x, first = int64_t{threadIdx.x} * N, half = a.N / 2;
  const RopeTurn<T, N> turn = turn_of<T, N>(a, t, first);
  for (int64_t h = threadIdx.y; h < a.H; h += blockDim.y) {
    const T* x = static_cast<const T*>(a.x_THN) + t * a.x_row + h * a.x_head + first;
    T* y = static_cast<T*>(a.y_THN) + t * a.y_row + h * a.y_head + first;
    const Pack<T, N> low = load_pack<N>(x), high = load_pack<N>(x + half);
    Pack<T, N> out_low, out_high;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float u = to_float(low.v[n]), v = to_float(high.v[n]), c = turn.c[n], s = turn.s[n];
      out_low.v[n] =
          from_float<T>(__fsub_rn(rounded<T>(__fmul_rn(u, c)), rounded<T>(__fmul_rn(v, s))));
      out_high.v[n] =
          from_float<T>(__fadd_rn(rounded<T>(__fmul_rn(v, c)), rounded<T>(__fmul_rn(u, s))));
    }
    store_pack(y, out_low);
    store_pack(y + half, out_high);
  }
}

template <typename T, int N>
cudaError_t rotate_packs(const RopeRotateArgs& a, cudaStream_t stream) {
  const int64_t packs = a.N / 2 / N, fit = kRopeThreads / packs;
  const int64_t heads = fit < 1 ? 1 : fit < a.H ? fit : a.H;
  EM_LAUNCH((rope_kernel<T, N>), static_cast<unsigned>(a.T),
            (dim3(static_cast<unsigned>(packs), static_cast<unsigned>(heads))), 0, stream, a);
  return cudaGetLastError();
}

template <typename T>
cudaError_t rotate_as(const RopeRotateArgs& a, cudaStream_t stream) {
  const auto wide = [](const T* p, int64_t row, int64_t head) {
    return allows_wide(p, row) && allows_wide(p, head);
  };
  if (a.N / 2 % kWide<T> == 0 && wide(static_cast<const T*>(a.x_THN), a.x_row, a.x_head) &&
      wide(static_cast<const T*>(a.y_THN), a.y_row, a.y_head))
    return rotate_packs<T, kWide<T>>(a, stream);
  return rotate_packs<T, 1>(a, stream);
}

}  // namespace

cudaError_t rope_rotate(const RopeRotateArgs& a, cudaStream_t stream) noexcept {
  if (a.T < 0 || a.T > INT32_MAX || a.H < 0 || a.N < 0 || a.N % 2 != 0 || a.N > 2048)
    return cudaErrorInvalidValue;
  return for_kernel_dtype(a.type, [&](auto zero) {
    if (a.T == 0 || a.H == 0 || a.N == 0) return cudaSuccess;
    return rotate_as<decltype(zero)>(a, stream);
  });
}

}  // namespace euromodal
