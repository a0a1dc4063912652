// skinny_kernel.h — the kernel of skinny_linear and its launch, for one form of weights W
// (widen.h). Stage s belongs to warp s % 8 whatever M is, and the warps' sums are added in order:
// hence the same bits for every M. Blocks stay and walk over row tiles; the loads of the next
// stages, also of the next tile, are always under way. RT row tiles of 16 rows at once, NT column
// tiles of 8 rows of x.
#pragma once
#include "backbone/kernels/skinny_linear/skinny_inputs.h"

namespace euromodal::skinny {

constexpr int kMaxShared = 226 * 1024;

// The sums of all warps for one output.
template <int RT, int NT>
EM_DEVICE float total(const float* sums, int j, int r, int m) {
  const int lane = (r % 8) * 4 + (m % 8) / 2, reg = (r / 8) * 2 + m % 2;
  float out = 0.0F;
#pragma unroll
  for (int w = 0; w < kWarps / 2; ++w)
    out += sums[((w * RT + j) * NT + m / 8) * 128 + reg * 32 + lane];
  return out;
}

template <typename W, int RT, int NT, bool kSwiglu>
EM_DEVICE void write_tile(const Plan& p, int tile, const float* sums) {
  constexpr int kTiles = kSwiglu ? RT / 2 : RT;
  const int64_t outputs = kSwiglu ? p.a.N / 2 : p.a.N;
  const auto finished = [&](int j, int r, int m, int64_t row) {
    float v = total<RT, NT>(sums, j, r, m);
    if constexpr (W::kGroup == 0)
      if (p.a.scale != nullptr) v *= static_cast<const float*>(p.a.scale)[row];
    if (p.a.bias_N != nullptr) v += to_float(static_cast<const Bf16*>(p.a.bias_N)[row]);
    return to_float(from_float<Bf16>(v));
  };
  for (int i = threadIdx.x; i < kTiles * 16 * static_cast<int>(p.a.M); i += kThreads) {
    const int r = i % 16, j = i / 16 % kTiles, m = i / (16 * kTiles);
    const int64_t row = (static_cast<int64_t>(tile) * kTiles + j) * 16 + r;
    if (row >= outputs) continue;
    float v = finished(j, r, m, row);
    if constexpr (kSwiglu) {
      const float up = finished(j + kTiles, r, m, row + outputs);
      const float silu = to_float(from_float<Bf16>(v / (1.0F + __expf(-v))));
      v = to_float(from_float<Bf16>(silu * up));
    }
    const int64_t at = m * outputs + row;
    if (p.a.residual_MN != nullptr)
      v = to_float(from_float<Bf16>(v + to_float(static_cast<const Bf16*>(p.a.residual_MN)[at])));
    if (p.a.y_type == DType::kF32) {
      static_cast<float*>(p.a.y_MN)[at] = v;
    } else {
      static_cast<Bf16*>(p.a.y_MN)[at] = from_float<Bf16>(v);
    }
  }
}

template <typename W, int RT, int NT, bool kSwiglu, int kDepth, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks) skinny_kernel(const __grid_constant__ Plan p) {
  EM_DYNAMIC_SHARED(unsigned char, shared);
  constexpr int kSums = kWarps / 2 * RT * NT * 128;
  float* sums = reinterpret_cast<float*>(shared);
  float* inv_M = sums + kSums;   // [16]
  float* parts_M8 = inv_M + 16;  // [16, 8]
  Bf16* norm_K = reinterpret_cast<Bf16*>(parts_M8 + 16 * kWarps + 16);
  const bool norm = p.a.norm_weight_K != nullptr;
  unsigned char* x_shared = reinterpret_cast<unsigned char*>(norm_K + (norm ? p.a.K : 0));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int steps = (p.stages + kWarps - 1) / kWarps;  // of each warp in a tile
  const bool whole = p.chunk_units >= p.units;

  StageData<W, RT> data[kDepth];
  int load_tile = blockIdx.x, load_step = 0;
  const auto load_next = [&](StageData<W, RT>& to) {
    load_stage<W, RT, kSwiglu>(p, load_tile, load_step * kWarps + warp, to);
    if (++load_step == steps) {
      load_step = 0;
      load_tile += gridDim.x;
    }
  };
#pragma unroll
  for (int d = 0; d < kDepth; ++d) load_next(data[d]);
  if (norm) {
    for (int at = threadIdx.x; at < p.a.K / 8; at += kThreads)
      copy_async_16(norm_K + at * 8, static_cast<const Bf16*>(p.a.norm_weight_K) + at * 8);
  }
  release_successor();
  wait_for_predecessor();
  if (whole) fetch_x<W>(p, 0, p.units, x_shared);
  copies_commit();
  copies_wait<0>();
  __syncthreads();
  if (norm && whole)
    row_scales(p, parts_M8, inv_M,
               [&](int m, int at) { return load16(x_place(p, x_shared, m, at)); });
  if (norm && !whole)
    row_scales(p, parts_M8, inv_M, [&](int m, int at) {
      return load16(static_cast<const Bf16*>(p.a.x_MK) + m * p.a.K + at * 8);
    });
  if (whole) {
    finish_x<W>(p, 0, p.units, inv_M, norm_K, x_shared);
    __syncthreads();
  }

  float acc[RT][NT][4] = {};
  int tile = blockIdx.x, step = 0, chunk_begin = 0;
  while (tile < p.tiles) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (tile < p.tiles) {  // the same in all threads
        const int first_unit = (step * kWarps + warp) * kUnits, block_unit = step * kWarps * kUnits;
        if (!whole && block_unit % p.chunk_units == 0) {
          __syncthreads();
          const int left = p.units - block_unit,
                    count = left < p.chunk_units ? left : p.chunk_units;
          fetch_x<W>(p, block_unit, count, x_shared);
          copies_wait<0>();
          __syncthreads();
          finish_x<W>(p, block_unit, count, inv_M, norm_K, x_shared);
          chunk_begin = block_unit;
          __syncthreads();
        }
        multiply_stage<W, RT, NT>(p, data[d], first_unit, chunk_begin, x_shared, acc);
        load_next(data[d]);
        if (++step == steps) {
          // The upper half of the warps give theirs to the lower, those to all.
          const auto at = [&](int w, int j, int t, int i) -> float& {
            return sums[((w * RT + j) * NT + t) * 128 + i * 32 + lane];
          };
          const auto each = [&](auto&& f) {
#pragma unroll
            for (int j = 0; j < RT; ++j) {
#pragma unroll
              for (int t = 0; t < NT; ++t) {
#pragma unroll
                for (int i = 0; i < 4; ++i) f(j, t, i);
              }
            }
          };
          __syncthreads();  // the tile before has been written
          if (warp >= kWarps / 2)
            each([&](int j, int t, int i) { at(warp - kWarps / 2, j, t, i) = acc[j][t][i]; });
          __syncthreads();
          if (warp < kWarps / 2)
            each([&](int j, int t, int i) { at(warp, j, t, i) += acc[j][t][i]; });
          each([&](int j, int t, int i) { acc[j][t][i] = 0.0F; });
          __syncthreads();
          write_tile<W, RT, NT, kSwiglu>(p, tile, sums);
          step = 0;
          tile += gridDim.x;
        }
      }
    }
  }
}

inline int multiprocessors() {
#if defined(__CUDACC__)
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    return 132;
  return count;
#else
  return 3;  // few, so that emulated blocks walk over several tiles
#endif
}

template <typename W, int RT, int NT, bool kSwiglu, int kDepth, int kBlocks>
cudaError_t launch(const SkinnyLinearArgs& a, cudaStream_t stream) {
  Plan p{};
  p.a = a;
  p.blocks = static_cast<int>(skinny_blocks(a.K));
  p.units =
      static_cast<int>(W::kElements == 8 ? a.K / 32 : p.blocks * kSkinnyBlock / (4 * W::kElements));
  p.stages = (p.units + kUnits - 1) / kUnits;
  constexpr int kRows = 16 * (kSwiglu ? RT / 2 : RT);
  p.tiles = static_cast<int>(((kSwiglu ? a.N / 2 : a.N) + kRows - 1) / kRows);
  const int unit_bytes = 4 * W::kElements * 2, step_units = kUnits * kWarps;
  const int fixed = (kWarps / 2 * RT * NT * 128 + 32 + 16 * kWarps) * 4 +
                    (a.norm_weight_K != nullptr ? static_cast<int>(a.K) * 2 : 0);
  if (fixed > kMaxShared / 2) return cudaErrorInvalidValue;
  int fit = static_cast<int>((kMaxShared - fixed) / a.M - 64) / unit_bytes;
  if (fit < p.units) {
    fit = fit / step_units * step_units;
    // Half of that where it does not all fit, so that two blocks share a multiprocessor.
    p.chunk_units = fit / 2 >= step_units ? fit / 2 / step_units * step_units : fit;
    if (p.chunk_units == 0) return cudaErrorInvalidValue;
  } else {
    p.chunk_units = (p.units + step_units - 1) / step_units * step_units;
    fit = p.units;
  }
  const int held = p.chunk_units < p.units ? p.chunk_units : p.units;
  const int row_bytes = held * unit_bytes;
  p.x_stride = row_bytes + (row_bytes % 128 == 64 ? 0 : 64);
  const int shared = fixed + static_cast<int>(a.M) * p.x_stride;
  auto* kernel = &skinny_kernel<W, RT, NT, kSwiglu, kDepth, kBlocks>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (error != cudaSuccess) return error;
  int resident = 2;
#if defined(__CUDACC__)
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, kThreads,
                                                        static_cast<size_t>(shared));
  if (error != cudaSuccess) return error;
#endif
  int grid = multiprocessors() * (resident < 1 ? 1 : resident);
  if (grid > p.tiles) grid = p.tiles;
  if (a.dependent)
    return launch_dependent(kernel, dim3(grid), dim3(kThreads), static_cast<size_t>(shared), stream,
                            p);
  EM_LAUNCH(kernel, grid, kThreads, static_cast<size_t>(shared), stream, p);
  return cudaGetLastError();
}

// Of `tiles` on all multiprocessors with `blocks` each: work over time, when all take a tile at a
// time.
inline double evenness(int64_t tiles, int blocks) {
  const int64_t slots = static_cast<int64_t>(multiprocessors()) * blocks;
  const int64_t rounds = (tiles + slots - 1) / slots;
  return static_cast<double>(tiles) / static_cast<double>(rounds * slots);
}

/// Of integers, whose scales and zero points take registers too: smaller tiles than of floats, and
/// one block fewer where registers would spill.
template <typename W>
cudaError_t launch_integers(const SkinnyLinearArgs& a, cudaStream_t stream) {
  constexpr bool kInt4 = W::kElements == 32;
  constexpr int kBlocks = kInt4 && (W::kZeros || W::kGroup == 32) ? 1 : 2,
                kDepth = kInt4 && W::kZeros && W::kGroup == 32 ? 2 : 3;
  if (a.epilogue == SkinnyEpilogue::kSwiglu) {
    if (a.M <= 8) return launch<W, 2, 1, true, 2, kBlocks>(a, stream);
    return launch<W, 2, 2, true, 2, 1>(a, stream);
  }
  if (a.M <= 8) return launch<W, 1, 1, false, kDepth, 2>(a, stream);
  return launch<W, 2, 2, false, 2, 1>(a, stream);
}

template <typename W>
cudaError_t launch_floats(const SkinnyLinearArgs& a, cudaStream_t stream) {
  if (a.epilogue == SkinnyEpilogue::kSwiglu) {
    if (a.M <= 8) return launch<W, 2, 1, true, 2, 2>(a, stream);
    return launch<W, 4, 2, true, 2, 1>(a, stream);
  }
  if (a.M <= 4) {
    const int64_t tiles = (a.N + 15) / 16;
    if (evenness(tiles, 3) > evenness(tiles, 2)) return launch<W, 1, 1, false, 2, 3>(a, stream);
    return launch<W, 1, 1, false, 4, 2>(a, stream);
  }
  if (a.M <= 8) return launch<W, 2, 1, false, 2, 2>(a, stream);
  return launch<W, 4, 2, false, 2, 1>(a, stream);
}

}  // namespace euromodal::skinny
