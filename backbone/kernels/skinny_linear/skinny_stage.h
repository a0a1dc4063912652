// skinny_stage.h — what a warp of skinny_linear does with one stage of the weight: loads it into
// registers, widens it and multiplies it with x. Tensor cores for every M: the 16-row operand is
// the weight, the 8-column one x (padded with zeros: the arithmetic is free beside the memory). A
// lane's 16 bytes go from global memory straight to its fragments. Unit: 64 bytes of each of 16
// rows, one 16-byte load a lane for rows g and g + 8 (g = lane / 4). Stage: two units. Layout of a
// unit: skinny_layout.h; the products of a group of inputs are summed apart and scaled in f32.
#pragma once
#include "backbone/kernels/skinny_linear/skinny_layout.h"
#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"
#include "backbone/kernels/skinny_linear/widen.h"

namespace euromodal::skinny {

constexpr int kThreads = 256, kWarps = kThreads / 32, kUnits = 2;  // units of a stage

// What all blocks share; sizes in elements unless they say units.
struct Plan {
  SkinnyLinearArgs a;
  int units, stages;  // of a row
  int blocks;         // of 128 inputs, in a row
  int tiles;          // row tiles of a block's size
  int chunk_units;    // of x that lie in shared memory at once, a multiple of 2 · 8
  int x_stride;       // bytes between rows of x in shared memory
};

/// Scales and zero points of a block of 128 inputs, as they are loaded.
template <int kGroup>
struct GroupBits {
  using Scale = unsigned short;
  using Zero = unsigned char;
};
template <>
struct GroupBits<32> {
  using Scale = uint2;
  using Zero = uint32_t;
};

EM_DEVICE uint32_t scale_bits(unsigned short scale, int /*group*/) { return scale; }
EM_DEVICE uint32_t scale_bits(const uint2& scale, int group) {
  const uint32_t pair = group < 2 ? scale.x : scale.y;
  return group % 2 == 0 ? pair & 0xffffU : pair >> 16;
}
EM_DEVICE uint32_t zero_bits(unsigned char zero, int /*group*/) { return zero; }
EM_DEVICE uint32_t zero_bits(uint32_t zero, int group) { return zero >> (8 * group) & 0xffU; }

/// The weights of one stage in a lane: RT tiles of 16 rows, of which it has two.
template <typename W, int RT>
struct StageData {
  static constexpr int kBlocks = W::kGroup == 0 ? 1 : kUnits * 4 * W::kElements / kSkinnyBlock;
  uint4 w[kUnits][RT][2];
  struct Rows {
    typename GroupBits<W::kGroup>::Scale scale[2];
    typename GroupBits<W::kGroup>::Zero zero[2];  // where there are zero points
  };
  Rows rows[kBlocks][RT];  // of integers alone
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
  constexpr int kBlocks = StageData<W, RT>::kBlocks;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const auto* weight = static_cast<const unsigned char*>(p.a.weight_NK);
#pragma unroll
  for (int j = 0; j < RT; ++j) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row_of<W, RT, kSwiglu>(p, tile, j, g + 8 * h);
      const unsigned char* line = weight + (row * p.units + stage * kUnits) * 64 + c * 16;
#pragma unroll
      for (int u = 0; u < kUnits; ++u)
        to.w[u][j][h] =
            stage * kUnits + u < p.units ? load16_streaming(line + u * 64) : uint4{0, 0, 0, 0};
      if constexpr (W::kGroup != 0) {
        using Bits = GroupBits<W::kGroup>;
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
          const int block = stage * kBlocks + b;
          const int64_t at = row * p.blocks + (block < p.blocks ? block : 0);
          to.rows[b][j].scale[h] = static_cast<const typename Bits::Scale*>(p.a.scale)[at];
          if constexpr (W::kZeros)
            to.rows[b][j].zero[h] = static_cast<const typename Bits::Zero*>(p.a.zero)[at];
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

/// Group q of unit u of tile j, whose products are added to acc.
template <typename W, int RT, int NT>
EM_DEVICE void multiply_group(const StageData<W, RT>& d, int u, int j, int q,
                              const uint32_t (&b)[NT][W::kSteps][2], float (&acc)[NT][4]) {
  constexpr int kUnitsInBlock = kSkinnyBlock / (4 * W::kElements);
  constexpr int kSteps = W::kGroup == 32 ? 2 : W::kSteps;  // of a group in a unit
  const int block = u / kUnitsInBlock;
  const int group = W::kGroup == 32 ? u % kUnitsInBlock * (W::kSteps / kSteps) + q : 0;
  uint32_t zero[2] = {W::kMiddle, W::kMiddle};
  if constexpr (W::kZeros) {
#pragma unroll
    for (int h = 0; h < 2; ++h) zero[h] = W::zero_pair(zero_bits(d.rows[block][j].zero[h], group));
  }
  float part[NT][4];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int step = q * kSteps + s;
    uint32_t a[4];
    W::step(d.w[u][j][0], step, zero[0], a[0], a[2]);
    W::step(d.w[u][j][1], step, zero[1], a[1], a[3]);
#pragma unroll
    for (int t = 0; t < NT; ++t) {
      if (s == 0) {
        mma_bf16_first(part[t], a, b[t][step]);
      } else {
        mma_bf16(part[t], a, b[t][step]);
      }
    }
  }
  const float low = half_bits_to_float(scale_bits(d.rows[block][j].scale[0], group)),
              high = half_bits_to_float(scale_bits(d.rows[block][j].scale[1], group));
#pragma unroll
  for (int t = 0; t < NT; ++t) {
    acc[t][0] += low * part[t][0];
    acc[t][1] += low * part[t][1];
    acc[t][2] += high * part[t][2];
    acc[t][3] += high * part[t][3];
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
      if constexpr (W::kGroup != 0) {
        constexpr int kGroups = W::kGroup == 32 ? W::kSteps / 2 : 1;  // of a unit, or a part of one
#pragma unroll
        for (int q = 0; q < kGroups; ++q) multiply_group<W, RT, NT>(d, u, j, q, b, acc[j]);
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

}  // namespace euromodal::skinny
