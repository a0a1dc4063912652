// argmax_kernel.cu — see argmax_kernel.h; a block a row.
#include "backbone/kernels/argmax/argmax_kernel.h"
#include "backbone/kernels/cuda/device.h"

namespace euromodal {
namespace {

constexpr int kThreads = 1024;

struct Best {
  float value;
  int64_t id;
};

// NaN first, then the larger value, then the lower id.
EM_DEVICE bool better(const Best& a, const Best& b) {
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  if (a_nan != b_nan) return a_nan;
  if (!a_nan && a.value != b.value) return a.value > b.value;
  return a.id < b.id;
}

EM_DEVICE Best warp_best(Best mine) {
  for (int offset = 16; offset > 0; offset >>= 1) {
    const Best other{__shfl_xor_sync(0xffffffffU, mine.value, offset),
                     static_cast<int64_t>(
                         __shfl_xor_sync(0xffffffffU, static_cast<long long>(mine.id), offset))};
    if (better(other, mine)) mine = other;
  }
  return mine;
}

__global__ void __launch_bounds__(kThreads)
    argmax_kernel(const float* logits_BV, int64_t* token_B, const int32_t* active_B, int64_t V) {
  __shared__ Best warps[kThreads / 32];
  const int64_t row = blockIdx.x;
  if (active_B != nullptr && active_B[row] == 0) return;
  const float* logits_V = logits_BV + row * V;
  Best mine{-INFINITY, INT64_MAX};
  const auto take = [&](float value, int64_t id) {
    const Best other{value, id};
    if (better(other, mine)) mine = other;
  };
  if (V % 4 == 0 && reinterpret_cast<uintptr_t>(logits_V) % 16 == 0) {
    for (int64_t v = static_cast<int64_t>(threadIdx.x) * 4; v < V; v += kThreads * 4) {
      const Vec16<float> x = load16(logits_V + v);
#pragma unroll
      for (int i = 0; i < 4; ++i) take(x.v[i], v + i);
    }
  } else {
    for (int64_t v = threadIdx.x; v < V; v += kThreads) take(logits_V[v], v);
  }
  mine = warp_best(mine);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x < 32) {
    mine = warp_best(warps[threadIdx.x]);
    if (threadIdx.x == 0) token_B[row] = mine.id;
  }
}

}  // namespace

cudaError_t argmax(const ArgmaxArgs& a, cudaStream_t stream) noexcept {
  if (a.B == 0) return cudaSuccess;
  if (a.B < 0 || a.B > INT32_MAX || a.V < 1) return cudaErrorInvalidValue;
  EM_LAUNCH(argmax_kernel, static_cast<unsigned>(a.B), kThreads, 0, stream, a.logits_BV, a.token_B,
            a.active_B, a.V);
  return cudaGetLastError();
}

}  // namespace euromodal
