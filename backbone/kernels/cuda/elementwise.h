// elementwise.h — one kernel for functions of an element: some inputs, some outputs, each with its
// own distance between rows. Bound by memory: 16-byte accesses where every pointer and distance
// allows them, several under way in a thread.
//
//   struct Negate {
//     EM_DEVICE void operator()(const float (&in)[1], float (&out)[1]) const { out[0] = -in[0]; }
//   };
//   launch_elementwise<Negate>(ElementRows<T, 1, 1>{rows, width, {x}, {width}, {y}, {width}}, s);
#pragma once
#include "backbone/kernels/cuda/packs.h"
#include "backbone/kernels/cuda/row_pieces.h"

namespace euromodal {

/// Elements of a row are neighbours; rows lie `stride` elements apart. Outputs may be inputs.
template <typename T, int kIn, int kOut>
struct ElementRows {
  int64_t rows, width;
  const T* in[kIn];
  int64_t in_stride[kIn];
  T* out[kOut];
  int64_t out_stride[kOut];
};

constexpr int kElementThreads = 256;
constexpr int kElementPacks = 2;  // of a thread

template <typename F, typename T, int N, int kIn, int kOut>
EM_DEVICE void map_pack(const Pack<T, N> (&x)[kIn], Pack<T, N> (&y)[kOut]) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    float in[kIn], out[kOut];
#pragma unroll
    for (int i = 0; i < kIn; ++i) in[i] = to_float(x[i].v[n]);
    F{}(in, out);
#pragma unroll
    for (int o = 0; o < kOut; ++o) y[o].v[n] = from_float<T>(out[o]);
  }
}

template <typename F, int N, typename T, int kIn, int kOut>
__global__ void __launch_bounds__(kElementThreads)
    elementwise_kernel(const __grid_constant__ ElementRows<T, kIn, kOut> a,
                       const __grid_constant__ RowPieces pieces) {
  const int64_t row = pieces.row(blockIdx.x), begin = pieces.begin(blockIdx.x),
                end = pieces.end(blockIdx.x), wide_end = begin + (end - begin) / N * N;
  Pack<T, N> x[kElementPacks][kIn], y[kOut];
#pragma unroll
  for (int p = 0; p < kElementPacks; ++p) {
    const int64_t d = begin + (int64_t{p} * kElementThreads + threadIdx.x) * N;
    if (d >= wide_end) continue;
#pragma unroll
    for (int i = 0; i < kIn; ++i) x[p][i] = load_pack<N>(a.in[i] + row * a.in_stride[i] + d);
  }
#pragma unroll
  for (int p = 0; p < kElementPacks; ++p) {
    const int64_t d = begin + (int64_t{p} * kElementThreads + threadIdx.x) * N;
    if (d >= wide_end) continue;
    map_pack<F>(x[p], y);
#pragma unroll
    for (int o = 0; o < kOut; ++o) store_pack(a.out[o] + row * a.out_stride[o] + d, y[o]);
  }
  if constexpr (N > 1) {  // the end of a row
    const int64_t d = wide_end + threadIdx.x;
    if (d >= end) return;
    Pack<T, 1> last[kIn], result[kOut];
#pragma unroll
    for (int i = 0; i < kIn; ++i) last[i] = load_pack<1>(a.in[i] + row * a.in_stride[i] + d);
    map_pack<F>(last, result);
#pragma unroll
    for (int o = 0; o < kOut; ++o) store_pack(a.out[o] + row * a.out_stride[o] + d, result[o]);
  }
}

template <typename F, int N, typename T, int kIn, int kOut>
cudaError_t launch_element_packs(const ElementRows<T, kIn, kOut>& a, cudaStream_t stream) {
  const RowPieces pieces{a.rows, a.width, int64_t{kElementThreads} * kElementPacks * N};
  if (pieces.count() > INT32_MAX) return cudaErrorInvalidValue;
  EM_LAUNCH((elementwise_kernel<F, N, T, kIn, kOut>), static_cast<unsigned>(pieces.count()),
            kElementThreads, 0, stream, a, pieces);
  return cudaGetLastError();
}

/// out[o][row][d] = F(in[0][row][d], ...), computed in f32 and rounded to T.
template <typename F, typename T, int kIn, int kOut>
cudaError_t launch_elementwise(ElementRows<T, kIn, kOut> a, cudaStream_t stream) {
  if (a.rows < 0 || a.width < 0) return cudaErrorInvalidValue;
  if (a.rows == 0 || a.width == 0) return cudaSuccess;
  bool wide = true, dense = true;
  for (int i = 0; i < kIn; ++i) {
    dense = dense && a.in_stride[i] == a.width;
    wide = wide && allows_wide(a.in[i], a.rows > 1 ? a.in_stride[i] : 0);
  }
  for (int o = 0; o < kOut; ++o) {
    dense = dense && a.out_stride[o] == a.width;
    wide = wide && allows_wide(a.out[o], a.rows > 1 ? a.out_stride[o] : 0);
  }
  if (dense) {  // one long row: its start alone decides
    a.width *= a.rows;
    a.rows = 1;
    wide = true;
    for (const T* p : a.in) wide = wide && allows_wide(p);
    for (const T* p : a.out) wide = wide && allows_wide(p);
  }
  return wide ? launch_element_packs<F, kWide<T>>(a, stream)
              : launch_element_packs<F, 1>(a, stream);
}

}  // namespace euromodal
