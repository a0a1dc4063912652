// packed_kernels.h — the inner loops of packed_linear(), one file per instruction set. Plain C++
// types only: files compiled for wider units must not share inline functions with the others.
#pragma once
#include <cstdint>

#include "backbone/kernels/cpu_features.h"
#include "backbone/kernels/packed_linear/packed_layout.h"

namespace euromodal {

/// y = x Wᵀ for all M rows and the blocks [begin, end) of 16 outputs each. The bits of a row depend
/// on nothing but the row and the weights.
struct PackedKernelArgs {
  /// [M] rows, x_bytes apart, padded to the layout's inputs: bf16, or f32 where PackedKernels says
  /// so; for integers int8 codes.
  const uint8_t* x = nullptr;
  int64_t x_bytes = 0;
  const float* x_scale_MG = nullptr;  // integers: x = scale · code,
  const int32_t* x_sum_MG = nullptr;  // and the sum of the codes of a group
  const uint8_t* weight = nullptr;    // block 0
  PackedLayout layout;
  int64_t group = 0;
  bool asymmetric = false;
  int64_t M = 0, begin = 0, end = 0;
  /// Takes finished sums: tile_RC, rows of `columns` floats, for rows [row, row + rows) and outputs
  /// [output, output + columns).
  void (*store)(void* to, const float* tile_RC, int64_t row, int64_t rows, int64_t output,
                int64_t columns) = nullptr;
  void* to = nullptr;
};

using PackedKernel = void (*)(const PackedKernelArgs&);

struct PackedKernels {
  PackedKernel bf16, int8, int4;
  bool widened;  // bf16 takes rows of f32
};

/// The best for `isa`, which this machine must have.
PackedKernels packed_kernels(CpuIsa isa);

namespace packed {
PackedKernels portable();
#if defined(__x86_64__)
PackedKernels avx2();
PackedKernel avx512_bf16_widened();
PackedKernels avx512_vnni();       // int8 and int4
PackedKernel avx512_bf16_pairs();  // vdpbf16ps
PackedKernels amx();
#endif
}  // namespace packed

}  // namespace euromodal
