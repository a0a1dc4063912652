// skinny_plan.h — how skinny_linear cuts its work. A block stays on its multiprocessor: a few teams
// of 8 warps that share x in shared memory and walk over row tiles of the weight each by itself.
// Stage s of a row belongs to warp s % 8 of the team whatever M is, and the warps' sums are added
// in order: hence the same bits for every M, every number of teams and every size of a tile.
#pragma once
#include "backbone/kernels/cuda/device.h"
#include "backbone/kernels/skinny_linear/skinny_layout.h"
#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"

namespace euromodal::skinny {

constexpr int kWarps = 8, kTeamThreads = kWarps * 32;  // of a team
constexpr int kUnits = 2;                              // of a stage
constexpr int kMaxShared = 226 * 1024;

/// Teams of a block; stages that each of their warps has under way in registers.
struct Shape {
  int teams, depth;
};

/// What all blocks share; sizes in elements unless they say units.
struct Plan {
  SkinnyLinearArgs a;
  int units, stages;  // of a row
  int steps;          // of a warp in a row
  int blocks;         // of 128 inputs, in a row
  int tiles;          // of 16 rows
  int chunks;         // of x, which lie in shared memory one after the other, and
  int chunk_steps;    // what each holds
  int buffers;        // for them: with two the next one is fetched early
  int x_stride;       // bytes between rows of x in shared memory
  int own_ahead;      // bytes of each row of the first tile that go to L2 before x is there
  int scale_bytes;    // of each of these rows' scales
  int next_rows;      // of the next kernel's weight that a team asks for
};

inline int multiprocessors() {
#if defined(__CUDACC__)
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    return 132;
  return count;
#else
  return 3;  // few, so that emulated teams walk over several tiles
#endif
}

/// Codes of a unit, which four lanes read 16 bytes each of.
constexpr int unit_codes(DType type) {
  return static_cast<int>(kSkinnyUnit) * (type == DType::kInt4 ? 2 : 1) /
         (type == DType::kBf16 ? 2 : 1);
}

/// Of `tiles` on `slots` that take one at a time: work over time.
inline double evenness(int64_t tiles, int64_t slots) {
  const int64_t rounds = (tiles + slots - 1) / slots;
  return static_cast<double>(tiles) / static_cast<double>(rounds * slots);
}

/// Outputs of a tile, which is 16 rows of the weight.
inline int64_t tile_outputs(const SkinnyLinearArgs& a) {
  return a.epilogue == SkinnyEpilogue::kSwiglu ? 8 : 16;
}
inline int64_t tiles_of(const SkinnyLinearArgs& a) {
  const int64_t outputs = a.epilogue == SkinnyEpilogue::kSwiglu ? a.N / 2 : a.N;
  return (outputs + tile_outputs(a) - 1) / tile_outputs(a);
}
inline int64_t slots_of(const Shape& shape) {
  return static_cast<int64_t>(multiprocessors()) * shape.teams;
}

/// The registers of three teams suffice for all but two column tiles of integers, zero points and
/// groups of 32.
inline bool may_have_three_teams(const SkinnyLinearArgs& a) {
  return a.group == 0 || (a.group == 128 && a.zero == nullptr && a.M <= 8);
}
/// Three teams with less under way each, or two with more: where the tiles come out more evenly.
/// The depths of two divide the steps of rows of 6144 inputs.
inline Shape shape_of(const SkinnyLinearArgs& a) {
  const Shape three{3, 2}, two{2, a.weight_type == DType::kBf16 ? 4 : 3};
  const int64_t tiles = tiles_of(a);
  return may_have_three_teams(a) &&
                 evenness(tiles, slots_of(three)) > evenness(tiles, slots_of(two))
             ? three
             : two;
}

/// Bytes of a row's scales, if they are scales of groups and can be asked for by L2's fetch.
inline int scale_row_bytes(const SkinnyLinearArgs& a) {
  if (a.group == 0) return 0;
  const int64_t bytes = skinny_groups(a.K, a.group) * 2;
  return bytes % 16 == 0 ? static_cast<int>(bytes) : 0;
}

/// Shared memory beside x: the teams' sums, norms, the norm's weight.
inline int fixed_shared(const SkinnyLinearArgs& a, const Shape& shape) {
  const int columns = a.M > 8 ? 2 : 1;
  return (shape.teams * (kWarps / 2) * columns * 128 + 32 + 16 * kWarps) * 4 +
         (a.norm_weight_K != nullptr ? static_cast<int>(a.K) * 2 : 0);
}

/// Do rows come out as whole steps of all warps?
inline bool even(const Plan& p) { return p.units % (kWarps * kUnits) == 0; }

/// cudaErrorInvalidValue where not even one step of x fits.
inline cudaError_t make_plan(const SkinnyLinearArgs& a, const Shape& shape, Plan& p, int& shared) {
  p = Plan{};
  p.a = a;
  const int codes = unit_codes(a.weight_type), step_units = kWarps * kUnits;
  p.blocks = static_cast<int>(skinny_blocks(a.K));
  p.units = a.weight_type == DType::kBf16 ? static_cast<int>(a.K) / codes
                                          : static_cast<int>(p.blocks * kSkinnyBlock / codes);
  p.stages = (p.units + kUnits - 1) / kUnits;
  p.steps = (p.stages + kWarps - 1) / kWarps;
  p.tiles = static_cast<int>(tiles_of(a));
  const int fixed = fixed_shared(a, shape), unit_bytes = codes * 2;
  // Rows 64 bytes apart modulo 128: eight lanes of two rows then meet no bank twice.
  const int room = (kMaxShared - fixed) / static_cast<int>(a.M) - 64;
  p.buffers = 1;
  p.chunk_steps = p.steps;
  if (room < p.steps * step_units * unit_bytes) {
    const int fit = room / (step_units * unit_bytes);  // steps
    if (fit < 1) return cudaErrorInvalidValue;
    p.buffers = fit / 2 >= shape.depth ? 2 : 1;
    const int each = fit / p.buffers;
    p.chunk_steps = each >= shape.depth ? each / shape.depth * shape.depth : each;
  }
  p.chunks = (p.steps + p.chunk_steps - 1) / p.chunk_steps;
  p.x_stride = p.buffers * p.chunk_steps * step_units * unit_bytes;
  p.x_stride += p.x_stride % 128 == 64 ? 0 : 64;
  shared = fixed + static_cast<int>(a.M) * p.x_stride;
  // Of the teams' first tiles: what the registers do not hold already.
  const int64_t row_bytes = int64_t{p.units} * kSkinnyUnit,
                in_registers = int64_t{shape.depth} * kWarps * kUnits * kSkinnyUnit,
                rows = slots_of(shape) * 16;
  int64_t ahead = a.l2_ahead / rows / kSkinnyUnit * kSkinnyUnit;
  if (ahead > row_bytes - in_registers) ahead = row_bytes - in_registers;
  p.own_ahead = ahead > 0 ? static_cast<int>(ahead) : 0;
  p.scale_bytes = scale_row_bytes(a);
  const int64_t busy = slots_of(shape) < p.tiles ? slots_of(shape) : p.tiles;
  p.next_rows = static_cast<int>((a.ahead.rows + busy - 1) / busy);
  return cudaSuccess;
}

}  // namespace euromodal::skinny
