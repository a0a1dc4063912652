// adamw_kernel.cu — see adamw_kernel.h. Reference: adamw_range and sync_square_sum (training/).
// Bound by memory: master, both moments and the gradient are read once, the first three (and the
// values) written once. Products and sums are not fused, so that they round as on the CPU.
#include <cmath>

#include "backbone/kernels/adamw/adamw_kernel.h"
#include "backbone/kernels/cuda/packs.h"
#include "backbone/kernels/cuda/row_pieces.h"

namespace euromodal {
namespace {

constexpr int kUpdateThreads = 256;

struct AdamWNumbers {
  float p, m, v;
};

EM_DEVICE AdamWNumbers adamw_number(const AdamWArgs& a, float factor, float gradient,
                                    AdamWNumbers now) {
  const float g = __fmul_rn(gradient, factor);
  const float m = __fadd_rn(now.m, __fmul_rn(__fsub_rn(1.0F, a.beta1), __fsub_rn(g, now.m)));
  const float v =
      __fadd_rn(__fmul_rn(a.beta2, now.v), __fmul_rn(__fmul_rn(__fsub_rn(1.0F, a.beta2), g), g));
  const float below = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), a.root_correction), a.eps);
  const float p = __fsub_rn(__fmul_rn(now.p, a.decay), __fdiv_rn(__fmul_rn(a.step_size, m), below));
  return {p, m, v};
}

// Elements [d, d + N) of all arrays.
template <typename G, typename V, int N>
EM_DEVICE void adamw_pack(const AdamWArgs& a, float factor, int64_t d) {
  const auto gradient = load_pack<N>(static_cast<const G*>(a.gradient) + d);
  Pack<float, N> p = load_pack<N>(a.master + d), m = load_pack<N>(a.exp_avg + d),
                 v = load_pack<N>(a.exp_avg_sq + d);
  Pack<V, N> values;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const AdamWNumbers next =
        adamw_number(a, factor, to_float(gradient.v[n]), {p.v[n], m.v[n], v.v[n]});
    p.v[n] = next.p;
    m.v[n] = next.m;
    v.v[n] = next.v;
    values.v[n] = from_float<V>(next.p);
  }
  store_pack(a.master + d, p);
  store_pack(a.exp_avg + d, m);
  store_pack(a.exp_avg_sq + d, v);
  if (a.values != nullptr) store_pack(static_cast<V*>(a.values) + d, values);
}

/// N: 4 floats are 16 bytes.
template <typename G, typename V, int N>
__global__ void __launch_bounds__(kUpdateThreads)
    adamw_kernel(const __grid_constant__ AdamWArgs a, const __grid_constant__ RowPieces pieces) {
  if (a.apply != nullptr && *a.apply == 0) return;
  const float factor = a.clip != nullptr ? __fmul_rn(a.scale, *a.clip) : a.scale;
  const int64_t d = pieces.begin(blockIdx.x) + int64_t{threadIdx.x} * N,
                end = pieces.end(blockIdx.x);
  if (d + N <= end) {
    adamw_pack<G, V, N>(a, factor, d);
  } else {
    for (int64_t i = d; i < end; ++i) adamw_pack<G, V, 1>(a, factor, i);
  }
}

template <typename G, typename V>
cudaError_t adamw_as(const AdamWArgs& a, cudaStream_t stream) {
  const auto wide4 = [](const void* p, size_t element) {
    return reinterpret_cast<uintptr_t>(p) % (4 * element) == 0;
  };
  const bool wide = wide4(a.master, 4) && wide4(a.exp_avg, 4) && wide4(a.exp_avg_sq, 4) &&
                    wide4(a.gradient, sizeof(G)) && wide4(a.values, sizeof(V));
  const RowPieces pieces{1, a.count, int64_t{kUpdateThreads} * (wide ? 4 : 1)};
  if (pieces.count() > INT32_MAX) return cudaErrorInvalidValue;
  const auto blocks = static_cast<unsigned>(pieces.count());
  if (wide)
    EM_LAUNCH((adamw_kernel<G, V, 4>), blocks, kUpdateThreads, 0, stream, a, pieces);
  else
    EM_LAUNCH((adamw_kernel<G, V, 1>), blocks, kUpdateThreads, 0, stream, a, pieces);
  return cudaGetLastError();
}

// ---- sums of squares ----

EM_DEVICE double block_sum_f64(double v, double* scratch) {
  for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffU, v, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  double total = scratch[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) total += scratch[w];
  return total;
}

template <typename T, int N>
EM_DEVICE double squares_of(const Pack<T, N>& x) {
  double sum = 0.0;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const auto v = static_cast<double>(to_float(x.v[n]));
    sum += v * v;
  }
  return sum;
}

template <typename T, int N>
__global__ void __launch_bounds__(kUpdateThreads)
    square_sums_kernel(const __grid_constant__ SquareSumsArgs a) {
  __shared__ double scratch[kUpdateThreads / 32];
  const T* x = static_cast<const T*>(a.x);
  const int64_t packs = a.count / N, step = int64_t{gridDim.x} * kUpdateThreads;
  double sum = 0.0;
  for (int64_t i = int64_t{blockIdx.x} * kUpdateThreads + threadIdx.x; i < packs; i += step)
    sum += squares_of(load_pack<N>(x + i * N));
  const int64_t last = packs * N + threadIdx.x;
  if (blockIdx.x == 0 && last < a.count) sum += squares_of(load_pack<1>(x + last));
  sum = block_sum_f64(sum, scratch);
  if (threadIdx.x == 0) a.partial[blockIdx.x] = sum;
  if (blockIdx.x == 0)  // the parts of a small array that have no block
    for (int64_t p = gridDim.x + threadIdx.x; p < kSquareParts; p += kUpdateThreads)
      a.partial[p] = 0.0;
}

// A block for every part, or as many as the array fills.
template <typename T, int N>
cudaError_t square_sums_as(const SquareSumsArgs& a, cudaStream_t stream) {
  const int64_t filled = a.count / N / kUpdateThreads + 1;
  EM_LAUNCH((square_sums_kernel<T, N>),
            static_cast<unsigned>(filled < kSquareParts ? filled : kSquareParts), kUpdateThreads, 0,
            stream, a);
  return cudaGetLastError();
}

// A block for every array.
__global__ void __launch_bounds__(kUpdateThreads)
    square_totals_kernel(const __grid_constant__ SquareTotalsArgs a) {
  __shared__ double scratch[kUpdateThreads / 32];
  double sum = 0.0;
  for (int64_t p = threadIdx.x; p < kSquareParts; p += kUpdateThreads)
    sum += a.partial_BP[blockIdx.x * kSquareParts + p];
  sum = block_sum_f64(sum, scratch);
  if (threadIdx.x == 0) a.square_B[blockIdx.x] = sum;
}

}  // namespace

cudaError_t adamw_update(const AdamWArgs& a, cudaStream_t stream) noexcept {
  if (a.count < 0) return cudaErrorInvalidValue;
  return for_kernel_dtype(a.gradient_type, [&](auto gradient) {
    return for_kernel_dtype(a.values_type, [&](auto value) {
      if (a.count == 0) return cudaSuccess;
      return adamw_as<decltype(gradient), decltype(value)>(a, stream);
    });
  });
}

cudaError_t square_sums(const SquareSumsArgs& a, cudaStream_t stream) noexcept {
  if (a.count < 0) return cudaErrorInvalidValue;
  return for_kernel_dtype(a.type, [&](auto zero) {
    using T = decltype(zero);
    return allows_wide(static_cast<const T*>(a.x)) ? square_sums_as<T, kWide<T>>(a, stream)
                                                   : square_sums_as<T, 1>(a, stream);
  });
}

cudaError_t square_totals(const SquareTotalsArgs& a, cudaStream_t stream) noexcept {
  if (a.arrays < 0 || a.arrays > INT32_MAX) return cudaErrorInvalidValue;
  if (a.arrays == 0) return cudaSuccess;
  EM_LAUNCH(square_totals_kernel, static_cast<unsigned>(a.arrays), kUpdateThreads, 0, stream, a);
  return cudaGetLastError();
}

}  // namespace euromodal
