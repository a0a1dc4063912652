// skinny_inputs.h — x of skinny_linear in shared memory: fetched without registers, normalised, and
// in the order of the weight's fragments, which differs from the usual one inside an octet alone.
// Behind the last input there are zeros up to the end of the unit.
#pragma once
#include "backbone/kernels/skinny_linear/skinny_stage.h"

namespace euromodal::skinny {

// Where an octet of x lies: row m, the `at`-th octet from the chunk's first.
EM_DEVICE Bf16* x_place(const Plan& p, unsigned char* x_shared, int m, int at) {
  return reinterpret_cast<Bf16*>(x_shared + static_cast<int64_t>(m) * p.x_stride + at * 16);
}

// Units [begin, begin + count) of all rows of x, as they are; to be waited for.
template <typename W>
EM_DEVICE void fetch_x(const Plan& p, int begin, int count, unsigned char* x_shared) {
  constexpr int kOctets = W::kElements / 2;  // of a unit
  const int octets = static_cast<int>(p.a.K / 8) - begin * kOctets;
  const Bf16* x_MK = static_cast<const Bf16*>(p.a.x_MK) + static_cast<int64_t>(begin) * kOctets * 8;
  for (int m = 0; m < p.a.M; ++m) {
    for (int at = threadIdx.x; at < count * kOctets; at += kThreads) {
      if (at < octets) {
        copy_async_16(x_place(p, x_shared, m, at), x_MK + m * p.a.K + at * 8);
      } else {
        store16(x_place(p, x_shared, m, at), Vec16<Bf16>{});
      }
    }
  }
  copies_commit();
}

// 1 / rms of each row: a warp a part of every row, the parts are added in order. `load(m, at)`: 16
// bytes.
template <typename F>
EM_DEVICE void row_scales(const Plan& p, float* parts_M8, float* inv_M, F&& load) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = static_cast<int>(p.a.M);
  const int vectors = static_cast<int>(p.a.K / 8), each = (vectors + kWarps - 1) / kWarps;
  const int end = (warp + 1) * each < vectors ? (warp + 1) * each : vectors;
  for (int m = 0; m < rows; ++m) {
    float sum = 0.0F;
    for (int at = warp * each + lane; at < end; at += 32) {
      const Vec16<Bf16> v = load(m, at);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += to_float(v.v[i]) * to_float(v.v[i]);
    }
    sum = warp_sum(sum);
    if (lane == 0) parts_M8[m * kWarps + warp] = sum;
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < rows) {
    float sum = 0.0F;
    for (int i = 0; i < kWarps; ++i) sum += parts_M8[threadIdx.x * kWarps + i];
    inv_M[threadIdx.x] = rsqrtf(sum / static_cast<float>(p.a.K) + p.a.norm_eps);
  }
  __syncthreads();
}

// What was fetched, in place: normalised, and each octet in the order of the weight's fragments.
template <typename W>
EM_DEVICE void finish_x(const Plan& p, int begin, int count, const float* inv_M, const Bf16* norm_K,
                        unsigned char* x_shared) {
  constexpr int kOctets = W::kElements / 2;
  const bool norm = p.a.norm_weight_K != nullptr;
  if (!norm && W::kElements == 8) return;  // the order is the usual one
  const int there = static_cast<int>(p.a.K / 8) - begin * kOctets,
            octets = count * kOctets < there ? count * kOctets : there;
  for (int m = 0; m < p.a.M; ++m) {
    for (int at = threadIdx.x; at < octets; at += kThreads) {
      Bf16* place = x_place(p, x_shared, m, at);
      const Vec16<Bf16> v = load16(place);
      Vec16<Bf16> w{}, placed;
      if (norm) w = load16(norm_K + (begin * kOctets + at) * 8);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        Bf16 value = v.v[e];
        if (norm) {
          const Bf16 normal = from_float<Bf16>(to_float(value) * inv_M[m]);
          value = from_float<Bf16>(to_float(normal) * to_float(w.v[e]));
        }
        placed.v[W::place(e)] = value;
      }
      store16(place, placed);
    }
  }
}

}  // namespace euromodal::skinny
