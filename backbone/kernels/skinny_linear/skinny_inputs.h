// skinny_inputs.h — x of skinny_linear in shared memory: fetched without registers, normalised, and
// in the order of the weight's fragments, which differs from the usual one inside an octet alone.
// Behind the last input there are zeros up to the end of the step. All threads of a block work at
// it, for all of its teams.
#pragma once
#include "backbone/kernels/skinny_linear/skinny_plan.h"

namespace euromodal::skinny {

/// Units [begin, begin + count) of all rows of x, and where they lie in shared memory.
template <typename W>
struct InputPart {
  static constexpr int kOctets = W::kElements / 2;  // of a unit
  int begin, count;
  unsigned char* shared;

  EM_DEVICE Bf16* place(const Plan& p, int m, int octet) const {
    return reinterpret_cast<Bf16*>(shared + m * p.x_stride + octet * 16);
  }
  /// Octets that x has here; the others are zero.
  EM_DEVICE int there(const Plan& p) const {
    const int left = static_cast<int>(p.a.K / 8) - begin * kOctets;
    return left < count * kOctets ? left : count * kOctets;
  }
};

/// As they are; to be waited for.
template <typename W>
EM_DEVICE void fetch_x(const Plan& p, const InputPart<W>& part) {
  const int octets = part.there(p), all = part.count * InputPart<W>::kOctets;
  const Bf16* x_K =
      static_cast<const Bf16*>(p.a.x_MK) + int64_t{part.begin} * InputPart<W>::kOctets * 8;
#pragma unroll 1  // here and below: a kernel begins sooner when its code is short
  for (int m = 0; m < p.a.M; ++m, x_K += p.a.K) {
#pragma unroll 1
    for (int at = threadIdx.x; at < all; at += blockDim.x) {
      if (at < octets) {
        copy_async_16(part.place(p, m, at), x_K + at * 8);
      } else {
        store16(part.place(p, m, at), Vec16<Bf16>{});
      }
    }
  }
  copies_commit();
}

/// 1 / rms of each row, there for all behind the next barrier: eighths of rows for a warp each,
/// whose sums are added in order. `load(m, at)`: 16 bytes.
template <typename F>
EM_DEVICE void row_scales(const Plan& p, float* parts_M8, float* inv_M, F&& load) {
  constexpr int kParts = 8;
  const int lane = threadIdx.x % 32, rows = static_cast<int>(p.a.M);
  const int vectors = static_cast<int>(p.a.K / 8), each = (vectors + kParts - 1) / kParts;
  for (int job = static_cast<int>(threadIdx.x) / 32; job < rows * kParts;
       job += static_cast<int>(blockDim.x) / 32) {
    const int m = job / kParts, part = job % kParts;
    const int end = (part + 1) * each < vectors ? (part + 1) * each : vectors;
    float sum = 0.0F;
#pragma unroll 2
    for (int at = part * each + lane; at < end; at += 32) {
      const Vec16<Bf16> v = load(m, at);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += to_float(v.v[i]) * to_float(v.v[i]);
    }
    sum = warp_sum(sum);
    if (lane == 0) parts_M8[job] = sum;
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < rows) {
    float sum = 0.0F;
    for (int i = 0; i < kParts; ++i) sum += parts_M8[threadIdx.x * kParts + i];
    inv_M[threadIdx.x] = rsqrtf(sum / static_cast<float>(p.a.K) + p.a.norm_eps);
  }
}

/// Does finish_x change anything? The same in all threads.
template <typename W>
EM_DEVICE bool unfinished(const Plan& p) {
  return p.a.norm_weight_K != nullptr || W::kElements != 8;
}

/// Word j of an octet (given in pairs) in the order of the weight's fragments.
template <typename W>
EM_DEVICE uint32_t placed_pair(const uint32_t (&pair)[4], int j) {
  int low = 0, high = 0;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    if (W::place(e) == 2 * j) low = e;
    if (W::place(e) == 2 * j + 1) high = e;
  }
  return __byte_perm(pair[low / 2], pair[high / 2],
                     (low % 2 == 0 ? 0x10U : 0x32U) | (high % 2 == 0 ? 0x5400U : 0x7600U));
}

/// What was fetched, in place: normalised, and each octet in the order of the weight's fragments.
/// Numbers go in pairs: single ones are rounded at a quarter of the rate.
template <typename W>
EM_DEVICE void finish_x(const Plan& p, const InputPart<W>& part, const float* inv_M,
                        const Bf16* norm_K) {
  if (!unfinished<W>(p)) return;
  const bool norm = p.a.norm_weight_K != nullptr;
  const int octets = part.there(p), begin = part.begin * InputPart<W>::kOctets;
#pragma unroll 1
  for (int m = 0; m < p.a.M; ++m) {
    const float inv = norm ? inv_M[m] : 1.0F;
#pragma unroll 1
    for (int at = threadIdx.x; at < octets; at += blockDim.x) {
      auto* place = reinterpret_cast<uint4*>(part.place(p, m, at));
      const uint4 x = *place;
      uint32_t pair[4] = {x.x, x.y, x.z, x.w};
      if (norm) {
        const uint4 w = reinterpret_cast<const uint4*>(norm_K)[begin + at];
        const uint32_t weight[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int i = 0; i < 4; ++i)
          pair[i] = multiply_bf16x2(
              pack_bf16x2(low_of_bf16x2(pair[i]) * inv, high_of_bf16x2(pair[i]) * inv), weight[i]);
      }
      *place = uint4{placed_pair<W>(pair, 0), placed_pair<W>(pair, 1), placed_pair<W>(pair, 2),
                     placed_pair<W>(pair, 3)};
    }
  }
}

}  // namespace euromodal::skinny
