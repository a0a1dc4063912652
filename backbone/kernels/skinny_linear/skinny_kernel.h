// skinny_kernel.h — the kernel of skinny_linear and its launch, for one form of weights W
// (widen.h). How the work is cut: skinny_plan.h. The loads of the next stages, also of the next
// tile, are always under way. NT column tiles of 8 rows of x.
//
// One kernel ends and the next begins many times in a step of decoding. So that memory is not idle
// then, weights are asked for before x is there: the first stages in registers, more of the team's
// first tile in L2; and when a kernel has asked for its last bytes, the first ones of the next
// kernel's weight are asked for in L2 (SkinnyAhead).
#pragma once
#include "backbone/kernels/skinny_linear/skinny_inputs.h"
#include "backbone/kernels/skinny_linear/skinny_output.h"

namespace euromodal::skinny {

/// Which row of a team's a thread asks L2 for, so that all warps take part: within one, such
/// requests go out one after the other.
EM_DEVICE int row_to_ask_for(int thread) { return thread % 32 * kWarps + thread / 32; }

/// More of the team's first tile than the registers hold.
template <bool kSwiglu, int kDepth>
EM_DEVICE void fetch_own_ahead(const Plan& p, int tile, int thread) {
  const int r = row_to_ask_for(thread);
  if (p.own_ahead == 0 || tile >= p.tiles || r >= 16) return;
  constexpr int kInRegisters = kDepth * kWarps * kUnits * static_cast<int>(kSkinnyUnit);
  const int64_t row = row_of<kSwiglu>(p, tile, r);
  if (r > 0 && row == row_of<kSwiglu>(p, tile, r - 1)) return;  // behind the last one
  prefetch_l2(static_cast<const unsigned char*>(p.a.weight_NK) +
                  row * p.units * static_cast<int64_t>(kSkinnyUnit) + kInRegisters,
              static_cast<uint32_t>(p.own_ahead));
  if (p.scale_bytes > 0)
    prefetch_l2(static_cast<const unsigned char*>(p.a.scale) + row * p.scale_bytes,
                static_cast<uint32_t>(p.scale_bytes));
}

/// The team's part of what the next kernel will read first.
EM_DEVICE void fetch_next(const Plan& p, int slot, int thread) {
  const SkinnyAhead& next = p.a.ahead;
  const auto ask = [&](int64_t row) {
    prefetch_l2(static_cast<const unsigned char*>(next.weight) + row * next.stride,
                static_cast<uint32_t>(next.bytes));
    if (next.scale != nullptr)
      prefetch_l2(static_cast<const unsigned char*>(next.scale) + row * next.scale_bytes,
                  static_cast<uint32_t>(next.scale_bytes));
  };
  const int64_t begin = static_cast<int64_t>(slot) * p.next_rows, end = begin + p.next_rows;
#pragma unroll 1
  for (int64_t row = begin + row_to_ask_for(thread); row < next.rows && row < end;
       row += kTeamThreads) {
    ask(row);
    if (next.second > 0) ask(row + next.second);
  }
}

template <typename W, int NT, bool kSwiglu, bool kEven, int kDepth, int kTeams>
__global__ void __launch_bounds__(kTeams* kTeamThreads, 1)
    skinny_kernel(const __grid_constant__ Plan p) {
  EM_DYNAMIC_SHARED(unsigned char, shared);
  constexpr int kTileSums = NT * 128, kSums = kWarps / 2 * kTileSums;
  float* inv_M = reinterpret_cast<float*>(shared) + kTeams * kSums;  // [16]
  float* parts_M8 = inv_M + 16;                                      // [16, 8]
  Bf16* norm_K = reinterpret_cast<Bf16*>(parts_M8 + 16 * kWarps + 16);
  const bool norm = p.a.norm_weight_K != nullptr;
  unsigned char* x_shared = reinterpret_cast<unsigned char*>(norm_K + (norm ? p.a.K : 0));
  const int team = threadIdx.x / kTeamThreads, thread = threadIdx.x % kTeamThreads,
            warp = thread / 32, lane = threadIdx.x % 32;
  float* sums = reinterpret_cast<float*>(shared) + team * kSums;
  // Neighbouring tiles go to different multiprocessors: where they do not come out even, all have
  // nearly the same number.
  const int slots = static_cast<int>(gridDim.x) * kTeams;
  const int slot = team * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);

  StageData<W> data[kDepth];
  Reader<W, kSwiglu, kEven> reader;
  reader.start(p, slot, warp);
#pragma unroll
  for (int d = 0; d < kDepth; ++d) reader.load(p, d, data[d]);
  reader.advance(p, kDepth, slots, warp);
  fetch_own_ahead<kSwiglu, kDepth>(p, slot, thread);
  if (norm) {
#pragma unroll 1
    for (int at = threadIdx.x; at < p.a.K / 8; at += blockDim.x)
      copy_async_16(norm_K + at * 8, static_cast<const Bf16*>(p.a.norm_weight_K) + at * 8);
  }
  release_successor();
  wait_for_predecessor();

  constexpr int kStepUnits = kWarps * kUnits, kUnitBytes = 4 * W::kElements * 2;
  const int chunk_bytes = p.chunk_steps * kStepUnits * kUnitBytes;
  // Chunk c of x, in the buffer whose turn it is; rounded up to whole steps.
  const auto chunk = [&](int c, int buffer) {
    const int first = c * p.chunk_steps,
              steps = p.chunk_steps < p.steps - first ? p.chunk_steps : p.steps - first;
    return InputPart<W>{first * kStepUnits, steps * kStepUnits, x_shared + buffer * chunk_bytes};
  };
  const bool whole = p.chunks == 1;
  if (whole || p.buffers == 2) fetch_x<W>(p, chunk(0, 0));
  copies_commit();
  if (norm) {
    const InputPart<W> all = chunk(0, 0);
    if (whole) {
      copies_wait<0>();
      __syncthreads();
    }
    row_scales(p, parts_M8, inv_M, [&](int m, int at) {
      return load16(whole ? all.place(p, m, at)
                          : static_cast<const Bf16*>(p.a.x_MK) + m * p.a.K + at * 8);
    });
  }

  // Teams whose tiles are done stay as long as x comes in chunks: they help to fetch them.
  const int rounds = (p.tiles + slots - 1) / slots;
  float acc[NT][4] = {};
  int buffer = 0;
  for (int tile = slot, round = 0; round < rounds; ++round, tile += slots) {
    const bool mine = tile < p.tiles, last = tile + slots >= p.tiles;
    for (int c = 0; c < p.chunks; ++c) {
      const InputPart<W> part = chunk(c, buffer);
      if (!whole || round == 0) {
        if (!whole && p.buffers == 1) {
          __syncthreads();  // all have used the chunk before
          fetch_x<W>(p, part);
        }
        copies_wait<0>();
        __syncthreads();
        finish_x<W>(p, part, inv_M, norm_K);
        if (unfinished<W>(p)) __syncthreads();
        if (p.buffers == 2) {
          buffer ^= 1;
          const int next = c + 1 < p.chunks ? c + 1 : 0;
          if (next > 0 || round + 1 < rounds) fetch_x<W>(p, chunk(next, buffer));
        }
      }
      if (!mine) continue;
      const unsigned char* x[NT];
#pragma unroll
      for (int t = 0; t < NT; ++t) {
        const int n = lane / 4 + 8 * t, m = n < p.a.M ? n : static_cast<int>(p.a.M) - 1;
        x[t] = part.shared + m * p.x_stride + lane % 4 * 16 + warp * (kUnits * kUnitBytes);
      }
      const int steps = part.count / kStepUnits;
      const bool last_chunk = last && c + 1 == p.chunks;
#pragma unroll 1
      for (int s = 0; s < steps; s += kDepth) {
        if (last_chunk && s + kDepth >= steps && p.next_rows > 0) fetch_next(p, slot, thread);
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
          if (s + d < steps) multiply_stage<W, NT>(data[d], x, d * kStepUnits * kUnitBytes, acc);
          reader.load(p, d, data[d]);
        }
#pragma unroll
        for (int t = 0; t < NT; ++t) x[t] += kDepth * kStepUnits * kUnitBytes;
        reader.advance(p, kDepth, slots, warp);
      }
    }
    if (!mine) continue;

    // The upper half of the warps give their sums to the lower, those to all.
    Output<NT, kSwiglu> output;
    output.begin(p, tile, thread);
    float* held = sums + warp % (kWarps / 2) * kTileSums + lane;
    part_barrier(1 + team, kTeamThreads);  // the tile before has been written
#pragma unroll
    for (int half = 1; half >= 0; --half) {
      if (warp / (kWarps / 2) == half) {
#pragma unroll
        for (int t = 0; t < NT; ++t) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float& sum = held[t * 128 + i * 32];
            sum = half == 1 ? acc[t][i] : sum + acc[t][i];
            acc[t][i] = 0.0F;
          }
        }
      }
      part_barrier(1 + team, kTeamThreads);
    }
    output.write(p, sums);
  }
}

template <typename W, int NT, bool kSwiglu, int kDepth, int kTeams>
cudaError_t launch(const SkinnyLinearArgs& a, cudaStream_t stream) {
  Plan p{};
  int shared = 0;
  cudaError_t error = make_plan(a, {kTeams, kDepth}, p, shared);
  if (error != cudaSuccess) return error;
  auto* kernel = even(p) ? &skinny_kernel<W, NT, kSwiglu, true, kDepth, kTeams>
                         : &skinny_kernel<W, NT, kSwiglu, false, kDepth, kTeams>;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (error != cudaSuccess) return error;
  const int grid = multiprocessors() < p.tiles ? multiprocessors() : p.tiles;
  if (a.dependent)
    return launch_dependent(kernel, dim3(grid), dim3(kTeams * kTeamThreads),
                            static_cast<size_t>(shared), stream, p);
  EM_LAUNCH(kernel, grid, kTeams * kTeamThreads, static_cast<size_t>(shared), stream, p);
  return cudaGetLastError();
}

template <typename W, int NT, int kDepth, int kTeams>
cudaError_t launch(const SkinnyLinearArgs& a, cudaStream_t stream) {
  return a.epilogue == SkinnyEpilogue::kSwiglu ? launch<W, NT, true, kDepth, kTeams>(a, stream)
                                               : launch<W, NT, false, kDepth, kTeams>(a, stream);
}

/// In the shape of shape_of().
template <typename W>
cudaError_t launch_shaped(const SkinnyLinearArgs& a, cudaStream_t stream) {
  constexpr int kDepth = W::kElements == 8 ? 4 : 3;
  const bool three = shape_of(a).teams == 3, one_column = a.M <= 8;
  if constexpr (W::kGroup == 0) {
    if (three) return one_column ? launch<W, 1, 2, 3>(a, stream) : launch<W, 2, 2, 3>(a, stream);
  } else if constexpr (W::kGroup == 128 && !W::kZeros) {
    if (three) return launch<W, 1, 2, 3>(a, stream);
  }
  return one_column ? launch<W, 1, kDepth, 2>(a, stream) : launch<W, 2, kDepth, 2>(a, stream);
}

}  // namespace euromodal::skinny
