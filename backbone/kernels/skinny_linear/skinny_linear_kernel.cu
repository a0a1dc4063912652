// skinny_linear_kernel.cu — see skinny_linear_kernel.h. Reference: skinny_linear_ref.cpp.
//
// Tensor cores for every M: the 16-row operand is the weight, the 8-column one x (padded with
// zeros: the arithmetic is free beside the memory). A lane's 16 bytes go from global memory
// straight to its fragments; the k that they stand for is a permutation of the usual one, and x
// lies in shared memory by the same permutation. Unit: 64 bytes of each of 16 rows, one 16-byte
// load a lane for rows g and g + 8 (g = lane / 4). Stage: two units. Stage s belongs to warp s % 8
// whatever M is, and the warps' sums are added in order: hence the same bits for every M. Blocks
// stay and walk over row tiles; the loads of the next stages, also of the next tile, are always
// under way.
#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"
#include "backbone/kernels/skinny_linear/widen.h"

namespace euromodal {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kUnits = 2;  // units of a stage
constexpr int kMaxShared = 226 * 1024;

// What all blocks share; sizes in elements unless they say units.
struct Plan {
  SkinnyLinearArgs a;
  int units, stages;  // of a row
  int tiles;          // row tiles of a block's size
  int chunk_units;    // of x that lie in shared memory at once, a multiple of 2 · 8
  int x_stride;       // bytes between rows of x in shared memory
};

template <typename W, int RT>
struct StageData {
  uint4 w[kUnits][RT][2];
  Bf16 scale[W::kGroups ? kUnits : 1][RT][2], zero[W::kGroups ? kUnits : 1][RT][2];
};

template <typename W, int RT, bool kSwiglu>
EM_DEVICE int64_t row_of(const Plan& p, int tile, int j, int r) {
  if constexpr (kSwiglu) {
    constexpr int kHalf = RT / 2;
    const int64_t half = p.a.N / 2, row = (static_cast<int64_t>(tile) * kHalf + j % kHalf) * 16 + r;
    return (row < half ? row : half - 1) + (j >= kHalf ? half : 0);
  } else {
    const int64_t row = (static_cast<int64_t>(tile) * RT + j) * 16 + r;
    return row < p.a.N ? row : p.a.N - 1;
  }
}

template <typename W, int RT, bool kSwiglu>
EM_DEVICE void load_stage(const Plan& p, int tile, int stage, StageData<W, RT>& to) {
  if (tile >= p.tiles || stage >= p.stages) return;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const auto* weight = static_cast<const unsigned char*>(p.a.weight_NK);
#pragma unroll
  for (int j = 0; j < RT; ++j) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row_of<W, RT, kSwiglu>(p, tile, j, g + 8 * h);
      const unsigned char* line = weight + (row * p.units + stage * kUnits) * 64 + c * 16;
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int unit = stage * kUnits + u;
        to.w[u][j][h] = unit < p.units ? load16_streaming(line + u * 64) : uint4{0, 0, 0, 0};
        if constexpr (W::kGroups) {  // a unit is a group
          const int64_t at = row * p.units + (unit < p.units ? unit : 0);
          to.scale[u][j][h] = static_cast<const Bf16*>(p.a.scale)[at];
          if (p.a.zero != nullptr) to.zero[u][j][h] = static_cast<const Bf16*>(p.a.zero)[at];
        }
      }
    }
  }
}

// x of one unit for column n: W::kSteps pairs of registers.
template <typename W>
EM_DEVICE void load_x(const unsigned char* x_shared, int x_stride, int unit, int n, bool there,
                      uint32_t (&b)[W::kSteps][2]) {
  constexpr int kVectors = W::kSteps / 2;
  const int c = threadIdx.x % 4;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    uint4 x{0, 0, 0, 0};
    if (there)
      x = *reinterpret_cast<const uint4*>(x_shared + static_cast<int64_t>(n) * x_stride +
                                          ((unit * kVectors + v) * 4 + c) * 16);
    b[2 * v][0] = x.x;
    b[2 * v][1] = x.y;
    b[2 * v + 1][0] = x.z;
    b[2 * v + 1][1] = x.w;
  }
}

template <typename W, int RT, int NT>
EM_DEVICE void multiply_stage(const Plan& p, const StageData<W, RT>& d, int first_unit,
                              int chunk_begin, const unsigned char* x_shared,
                              float (&acc)[RT][NT][4]) {
  const int g = static_cast<int>(threadIdx.x % 32) / 4;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    if (first_unit + u >= p.units) return;
    uint32_t b[NT][W::kSteps][2];
#pragma unroll
    for (int t = 0; t < NT; ++t)
      load_x<W>(x_shared, p.x_stride, first_unit + u - chunk_begin, g + 8 * t, g + 8 * t < p.a.M,
                b[t]);
#pragma unroll
    for (int j = 0; j < RT; ++j) {
      if constexpr (W::kGroups) {
        uint32_t zero[2] = {0x43084308U, 0x43084308U};
        if (p.a.zero != nullptr) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const uint32_t bits = __float_as_uint(128.0F + to_float(d.zero[u][j][h])) >> 16;
            zero[h] = bits | (bits << 16);
          }
        }
        float part[NT][4] = {};
#pragma unroll
        for (int s = 0; s < W::kSteps; ++s) {
          uint32_t a[4];
          W::step(d.w[u][j][0], s, zero[0], a[0], a[2]);
          W::step(d.w[u][j][1], s, zero[1], a[1], a[3]);
#pragma unroll
          for (int t = 0; t < NT; ++t) mma_bf16(part[t], a, b[t][s]);
        }
        const float low = to_float(d.scale[u][j][0]), high = to_float(d.scale[u][j][1]);
#pragma unroll
        for (int t = 0; t < NT; ++t) {
          acc[j][t][0] += low * part[t][0];
          acc[j][t][1] += low * part[t][1];
          acc[j][t][2] += high * part[t][2];
          acc[j][t][3] += high * part[t][3];
        }
      } else {
#pragma unroll
        for (int s = 0; s < W::kSteps; ++s) {
          uint32_t a[4];
          W::step(d.w[u][j][0], s, 0, a[0], a[2]);
          W::step(d.w[u][j][1], s, 0, a[1], a[3]);
#pragma unroll
          for (int t = 0; t < NT; ++t) mma_bf16(acc[j][t], a, b[t][s]);
        }
      }
    }
  }
}

// Where 16 bytes of x lie in shared memory: row m, the `at`-th of the row's units from the chunk's
// first. Of a unit the v-th 16 bytes of the four lanes lie side by side (no bank is hit twice).
template <typename W>
EM_DEVICE Bf16* x_place(const Plan& p, unsigned char* x_shared, int m, int at) {
  constexpr int kVectors = W::kElements / 2, kPerLane = kVectors / 4;
  const int unit = at / kVectors, in = at % kVectors;
  return reinterpret_cast<Bf16*>(x_shared + static_cast<int64_t>(m) * p.x_stride +
                                 ((unit * kPerLane + in % kPerLane) * 4 + in / kPerLane) * 16);
}

// Units [begin, begin + count) of all rows of x, as they are; to be waited for.
template <typename W>
EM_DEVICE void fetch_x(const Plan& p, int begin, int count, unsigned char* x_shared) {
  constexpr int kVectors = W::kElements / 2;
  const Bf16* x_MK =
      static_cast<const Bf16*>(p.a.x_MK) + static_cast<int64_t>(begin) * kVectors * 8;
  for (int m = 0; m < p.a.M; ++m) {
    for (int at = threadIdx.x; at < count * kVectors; at += kThreads)
      copy_async_16(x_place<W>(p, x_shared, m, at), x_MK + m * p.a.K + at * 8);
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

// What was fetched, in place: normalised, and in the order of the weight's fragments.
template <typename W>
EM_DEVICE void finish_x(const Plan& p, int begin, int count, const float* inv_M, const Bf16* norm_K,
                        unsigned char* x_shared) {
  constexpr int kVectors = W::kElements / 2;
  const bool norm = p.a.norm_weight_K != nullptr;
  if (!norm && W::kElements == 8) return;  // the order is the usual one
  for (int m = 0; m < p.a.M; ++m) {
    for (int at = threadIdx.x; at < count * kVectors; at += kThreads) {
      Bf16* there = x_place<W>(p, x_shared, m, at);
      const Vec16<Bf16> v = load16(there);
      Vec16<Bf16> w{}, placed;
      if (norm) w = load16(norm_K + (begin * kVectors + at) * 8);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        Bf16 value = v.v[e];
        if (norm) {
          const Bf16 normal = from_float<Bf16>(to_float(value) * inv_M[m]);
          value = from_float<Bf16>(to_float(normal) * to_float(w.v[e]));
        }
        placed.v[W::place(e)] = value;
      }
      store16(there, placed);
    }
  }
}

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
    if constexpr (!W::kGroups)
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
               [&](int m, int at) { return load16(x_place<W>(p, x_shared, m, at)); });
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

int multiprocessors() {
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
  p.units = static_cast<int>(a.K / (4 * W::kElements));
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
double evenness(int64_t tiles, int blocks) {
  const int64_t slots = static_cast<int64_t>(multiprocessors()) * blocks;
  const int64_t rounds = (tiles + slots - 1) / slots;
  return static_cast<double>(tiles) / static_cast<double>(rounds * slots);
}

template <typename W>
cudaError_t launch_by_rows(const SkinnyLinearArgs& a, cudaStream_t stream) {
  if (a.epilogue == SkinnyEpilogue::kSwiglu) {
    if (a.M <= 8) return launch<W, 2, 1, true, 2, 2>(a, stream);
    return launch<W, 4, 2, true, 2, 1>(a, stream);
  }
  if (a.M <= 4) {
    const int64_t tiles = (a.N + 15) / 16;
    if (evenness(tiles, 3) > evenness(tiles, 2)) return launch<W, 1, 1, false, 2, 3>(a, stream);
    return launch < W, 1, 1, false, W::kGroups ? 3 : 4, 2 > (a, stream);
  }
  if (a.M <= 8) return launch<W, 2, 1, false, 2, 2>(a, stream);
  return launch<W, 4, 2, false, 2, 1>(a, stream);
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

cudaError_t skinny_linear(const SkinnyLinearArgs& a, cudaStream_t stream) noexcept {
  if (a.M == 0 || a.N == 0) return cudaSuccess;
  if (a.M < 0 || a.M > 16 || a.N < 0 || a.K <= 0 || a.N > INT32_MAX || a.K > (1 << 24))
    return cudaErrorInvalidValue;
  if (a.epilogue == SkinnyEpilogue::kSwiglu && a.N % 2 != 0) return cudaErrorInvalidValue;
  if (!aligned(a.x_MK) || !aligned(a.weight_NK) || !aligned(a.norm_weight_K))
    return cudaErrorInvalidValue;
  switch (a.weight_type) {
    case DType::kBf16:
      return a.K % 32 != 0 ? cudaErrorInvalidValue : launch_by_rows<WidenBf16>(a, stream);
    case DType::kFp8E4M3:
      return a.K % 64 != 0 || a.scale == nullptr ? cudaErrorInvalidValue
                                                 : launch_by_rows<WidenFp8>(a, stream);
    case DType::kInt8:
      return a.K % 64 != 0 || a.scale == nullptr ? cudaErrorInvalidValue
                                                 : launch_by_rows<WidenInt8>(a, stream);
    case DType::kInt4:
      return a.K % 128 != 0 || a.group != 128 || a.scale == nullptr
                 ? cudaErrorInvalidValue
                 : launch_by_rows<WidenInt4>(a, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace euromodal
