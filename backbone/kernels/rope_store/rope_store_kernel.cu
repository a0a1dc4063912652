// rope_store_kernel.cu — see rope_store_kernel.h; a warp a head. Reference: rope_ref.
#include "backbone/kernels/rope_store/rope_row.h"
#include "backbone/kernels/rope_store/rope_store_kernel.h"

namespace euromodal {
namespace {

constexpr int kWarps = 4;

EM_DEVICE void store_cached(const RopeStoreArgs& a, void* pages, int64_t at, float v, int which) {
  if (a.kv_type == DType::kFp8E4M3) {
    static_cast<unsigned char*>(pages)[at] = fp8_code(v, a.kv_scale_2[which]);
  } else {
    static_cast<Bf16*>(pages)[at] = from_float<Bf16>(v);
  }
}

__global__ void __launch_bounds__(kWarps * 32)
    rope_store_kernel(const __grid_constant__ RopeStoreArgs a) {
  wait_for_predecessor();
  release_successor();
  const int64_t heads = a.H + 2 * a.K,
                task = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (task >= a.T * heads) return;
  const int64_t t = task / heads, head = task % heads;
  const int lane = static_cast<int>(threadIdx.x % 32), half = static_cast<int>(a.N / 2);
  const Bf16* x = static_cast<const Bf16*>(a.qkv_TO) + task * a.N;
  const bool query = head < a.H, key = !query && head < a.H + a.K;
  int64_t cached = 0;
  if (!query) {
    const int64_t position = a.position_T[t], kv_head = key ? head - a.H : head - a.H - a.K;
    const int64_t page = a.page_table_SP[a.sequence_T[t] * a.max_pages + position / a.page_size];
    cached = ((page * a.K + kv_head) * a.page_size + position % a.page_size) * a.N;
  }
  if (!query && !key) {
    for (int n = lane; n < a.N; n += 32) store_cached(a, a.v_pages, cached + n, to_float(x[n]), 1);
    return;
  }
  for (int n = lane; n < half; n += 32) {
    const int64_t position = a.rope_position_3T != nullptr
                                 ? a.rope_position_3T[mrope_axis(a.mrope, n) * a.T + t]
                                 : a.position_T[t];
    const auto [low, high] =
        rotate_pair(to_float(x[n]), to_float(x[half + n]), a.cos_PN[position * a.N + n],
                    a.sin_PN[position * a.N + n]);
    if (query) {
      Bf16* y = static_cast<Bf16*>(a.q_THN) + (t * a.H + head) * a.N;
      y[n] = from_float<Bf16>(low);
      y[half + n] = from_float<Bf16>(high);
    } else {  // as a cache of bf16 would be read
      store_cached(a, a.k_pages, cached + n, round_bf16(low), 0);
      store_cached(a, a.k_pages, cached + half + n, round_bf16(high), 0);
    }
  }
}

}  // namespace

cudaError_t rope_store(const RopeStoreArgs& a, cudaStream_t stream) noexcept {
  if (a.T == 0) return cudaSuccess;
  if (a.T < 0 || a.N <= 0 || a.N % 2 != 0 || a.N > 256 || a.page_size <= 0)
    return cudaErrorInvalidValue;
  if (a.kv_type != DType::kBf16 && (a.kv_type != DType::kFp8E4M3 || a.kv_scale_2 == nullptr))
    return cudaErrorInvalidValue;
  const int64_t blocks = (a.T * (a.H + 2 * a.K) + kWarps - 1) / kWarps;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  if (a.dependent)
    return launch_dependent(&rope_store_kernel, dim3(static_cast<unsigned>(blocks)),
                            dim3(kWarps * 32), 0, stream, a);
  EM_LAUNCH(rope_store_kernel, static_cast<unsigned>(blocks), kWarps * 32, 0, stream, a);
  return cudaGetLastError();
}

}  // namespace euromodal
