// skinny_stage.h — what a warp of skinny_linear does with one stage of the weight: loads it into
// registers, widens it and multiplies it with x. Tensor cores for every M: the 16-row operand is
// the weight, the 8-column one x (columns that x does not have repeat its last row and are not
// written: the arithmetic is free beside the memory). A lane's 16 bytes go from global memory
// straight to its fragments. Unit: 64 bytes of each of 16 rows, one 16-byte load a lane for rows g
// and g + 8 (g = lane / 4). Stage: two units. Layout of a unit: skinny_layout.h; the products of a
// group of inputs are summed apart and scaled in f32.
#pragma once
#include "backbone/kernels/skinny_linear/skinny_plan.h"
#include "backbone/kernels/skinny_linear/widen.h"

namespace euromodal::skinny {

/// kBytes bytes (a power of two up to 16) that are loaded at once.
template <int kBytes>
struct Bits {
  uint32_t word[(kBytes + 3) / 4];

  EM_DEVICE void load(const void* p) {
    if constexpr (kBytes == 1) {
      word[0] = *static_cast<const uint8_t*>(p);
    } else if constexpr (kBytes == 2) {
      word[0] = *static_cast<const uint16_t*>(p);
    } else if constexpr (kBytes == 4) {
      word[0] = *static_cast<const uint32_t*>(p);
    } else if constexpr (kBytes == 8) {
      const uint2 v = *static_cast<const uint2*>(p);
      word[0] = v.x;
      word[1] = v.y;
    } else {
      const uint4 v = *static_cast<const uint4*>(p);
      word[0] = v.x;
      word[1] = v.y;
      word[2] = v.z;
      word[3] = v.w;
    }
  }
  /// Number i of kEach bytes.
  template <int kEach>
  EM_DEVICE uint32_t get(int i) const {
    const int byte = i * kEach;
    return word[byte / 4] >> (8 * (byte % 4)) & ((1U << (8 * kEach)) - 1);
  }
  template <int kEach>
  EM_DEVICE void set(int i, uint32_t v) {
    const int byte = i * kEach;
    if (byte % 4 == 0) word[byte / 4] = 0;
    word[byte / 4] |= v << (8 * (byte % 4));
  }
};

/// The weights of one stage in a lane, which has two of the tile's 16 rows; of integers also the
/// scales and zero points of its blocks of 128 inputs.
template <typename W>
struct StageData {
  static constexpr bool kGroups = W::kGroup != 0;
  static constexpr int kBlocks = kGroups ? kUnits * 4 * W::kElements / kSkinnyBlock : 1;
  static constexpr int kOfBlock = W::kGroup == 32 ? 4 : 1;  // groups
  uint4 w[kUnits][2];
  Bits<kBlocks * kOfBlock * 2> scale[2];  // f16
  Bits<kBlocks * kOfBlock> zero[2];       // bytes
};

/// Row r of a tile: 16 rows of the weight; with kSwiglu 8 of the gate, then their 8 of up. Rows
/// beyond the last one repeat it.
template <bool kSwiglu>
EM_DEVICE int row_of(const Plan& p, int tile, int r) {
  const int N = static_cast<int>(p.a.N);
  if constexpr (kSwiglu) {
    const int row = tile * 8 + r % 8;
    return (row < N / 2 ? row : N / 2 - 1) + (r >= 8 ? N / 2 : 0);
  } else {
    const int row = tile * 16 + r;
    return row < N ? row : N - 1;
  }
}

/// Where a warp's loads stand: a ring of kDepth steps further than what it multiplies. kEven: rows
/// are whole steps of all warps; else what is behind a row's end repeats its last unit, which meets
/// zeros of x.
template <typename W, bool kSwiglu, bool kEven>
struct Reader {
  using Data = StageData<W>;
  int tile, first, step, steps;  // first step of the chunk of x, step in it and their number
  int stage;                     // of this warp in that step
  uint32_t line[2];              // 16-byte pieces from the weight's start to this lane's
  uint32_t block_line[2];        // blocks from the first scale to those of its rows

  EM_DEVICE void start(const Plan& p, int at, int warp) {
    tile = at;
    first = step = 0;
    stage = warp;
    steps = tile >= p.tiles ? 0 : p.chunk_steps < p.steps ? p.chunk_steps : p.steps;
    const int g = static_cast<int>(threadIdx.x % 32) / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto row = static_cast<uint32_t>(row_of<kSwiglu>(p, tile, g + 8 * h));
      line[h] = row * static_cast<uint32_t>(p.units) * 4 + c;
      if constexpr (Data::kGroups) block_line[h] = row * static_cast<uint32_t>(p.blocks);
    }
  }

  /// The step `ahead` (a constant) from where it stands; nothing where there is none.
  EM_DEVICE void load(const Plan& p, int ahead, Data& to) const {
    if (step + ahead >= steps) return;
    constexpr int kPieces = kUnits * 4;  // of a row and stage
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto* weight = static_cast<const uint4*>(p.a.weight_NK);
      if constexpr (kEven) {
        const uint4* lane = weight + (line[h] + static_cast<uint32_t>(stage * kPieces));
#pragma unroll
        for (int u = 0; u < kUnits; ++u)
          to.w[u][h] = load16_streaming(lane + (ahead * kWarps * kPieces + u * 4));
      } else {
#pragma unroll
        for (int u = 0; u < kUnits; ++u)
          to.w[u][h] = load16_streaming(
              weight + (line[h] + static_cast<uint32_t>(unit_there(p, ahead, u) * 4)));
      }
      if constexpr (Data::kGroups) load_groups(p, ahead, h, to);
    }
  }

  /// After a ring; `slots`: teams of all blocks.
  EM_DEVICE void advance(const Plan& p, int depth, int slots, int warp) {
    step += depth;
    stage += depth * kWarps;
    if (step < steps) return;
    const int next = first + p.chunk_steps;
    if (next >= p.steps) return start(p, tile + slots, warp);
    first = next;
    step = 0;
    stage = next * kWarps + warp;
    if (steps > p.steps - next) steps = p.steps - next;
  }

 private:
  EM_DEVICE int unit_there(const Plan& p, int ahead, int u) const {
    const int unit = (stage + ahead * kWarps) * kUnits + u;
    return unit < p.units ? unit : p.units - 1;
  }

  EM_DEVICE void load_groups(const Plan& p, int ahead, int h, Data& to) const {
    constexpr int kBlocks = Data::kBlocks, kOfBlock = Data::kOfBlock;
    const auto* scale = static_cast<const uint16_t*>(p.a.scale);
    const auto* zero = static_cast<const uint8_t*>(p.a.zero);
    if constexpr (kEven) {
      const uint32_t block = block_line[h] + static_cast<uint32_t>(stage * kBlocks);
      constexpr int kStep = kWarps * kBlocks * kOfBlock;
      const uint64_t at = static_cast<uint64_t>(block) * kOfBlock;
      to.scale[h].load(scale + at + ahead * kStep);
      if constexpr (W::kZeros) to.zero[h].load(zero + at + ahead * kStep);
    } else {
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        constexpr int kUnitsOfBlock = kUnits / kBlocks;
        const uint32_t block =
            block_line[h] +
            static_cast<uint32_t>(unit_there(p, ahead, b * kUnitsOfBlock) / kUnitsOfBlock);
#pragma unroll
        for (int g = 0; g < kOfBlock; ++g) {
          const uint64_t at = static_cast<uint64_t>(block) * kOfBlock + g;
          to.scale[h].template set<2>(b * kOfBlock + g, scale[at]);
          if constexpr (W::kZeros) to.zero[h].template set<1>(b * kOfBlock + g, zero[at]);
        }
      }
    }
  }
};

// x of one unit for a column: W::kSteps pairs of registers. `x`: this lane's place in the unit.
template <typename W>
EM_DEVICE void load_x(const unsigned char* x, uint32_t (&b)[W::kSteps][2]) {
#pragma unroll
  for (int v = 0; v < W::kSteps / 2; ++v) {
    const uint4 four = *reinterpret_cast<const uint4*>(x + v * 64);
    b[2 * v][0] = four.x;
    b[2 * v][1] = four.y;
    b[2 * v + 1][0] = four.z;
    b[2 * v + 1][1] = four.w;
  }
}

/// Group q of unit u, whose products are added to acc.
template <typename W, int NT>
EM_DEVICE void multiply_group(const StageData<W>& d, int u, int q,
                              const uint32_t (&b)[NT][W::kSteps][2], float (&acc)[NT][4]) {
  constexpr int kSteps = W::kGroup == 32 ? 2 : W::kSteps;  // of a group in a unit
  // Of the stage's groups: a unit has several, or shares one with its neighbours.
  const int group = (u * 4 * W::kElements + q * 32) / W::kGroup;
  uint32_t zero[2] = {W::kMiddle, W::kMiddle};
  if constexpr (W::kZeros) {
#pragma unroll
    for (int h = 0; h < 2; ++h) zero[h] = W::zero_pair(d.zero[h].template get<1>(group));
  }
  float part[NT][4];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int step = q * kSteps + s;
    uint32_t a[4];
    W::step(d.w[u][0], step, zero[0], a[0], a[2]);
    W::step(d.w[u][1], step, zero[1], a[1], a[3]);
#pragma unroll
    for (int t = 0; t < NT; ++t) {
      if (s == 0) {
        mma_bf16_first(part[t], a, b[t][step]);
      } else {
        mma_bf16(part[t], a, b[t][step]);
      }
    }
  }
  const float low = half_bits_to_float(d.scale[0].template get<2>(group)),
              high = half_bits_to_float(d.scale[1].template get<2>(group));
#pragma unroll
  for (int t = 0; t < NT; ++t) {
    acc[t][0] += low * part[t][0];
    acc[t][1] += low * part[t][1];
    acc[t][2] += high * part[t][2];
    acc[t][3] += high * part[t][3];
  }
}

/// `x`: for each column tile this lane's place in the stage's first unit.
template <typename W, int NT>
EM_DEVICE void multiply_stage(const StageData<W>& d, const unsigned char* const (&x)[NT],
                              int stage_bytes, float (&acc)[NT][4]) {
  constexpr int kUnitBytes = 4 * W::kElements * 2;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    uint32_t b[NT][W::kSteps][2];
#pragma unroll
    for (int t = 0; t < NT; ++t) load_x<W>(x[t] + stage_bytes + u * kUnitBytes, b[t]);
    if constexpr (W::kGroup != 0) {
      constexpr int kGroups = W::kGroup == 32 ? W::kSteps / 2 : 1;  // of a unit, or a part of one
#pragma unroll
      for (int q = 0; q < kGroups; ++q) multiply_group<W, NT>(d, u, q, b, acc);
    } else {
#pragma unroll
      for (int s = 0; s < W::kSteps; ++s) {
        uint32_t a[4];
        W::step(d.w[u][0], s, 0, a[0], a[2]);
        W::step(d.w[u][1], s, 0, a[1], a[3]);
#pragma unroll
        for (int t = 0; t < NT; ++t) mma_bf16(acc[t], a, b[t][s]);
      }
    }
  }
}

}  // namespace euromodal::skinny
