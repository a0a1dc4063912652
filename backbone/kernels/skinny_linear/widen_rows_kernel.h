// widen_rows_kernel.h — the numbers of a quantised weight as a plain matrix, for products of more
// rows than skinny_linear() takes. N rows, K inputs, G groups.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

struct WidenRowsArgs {
  const void* codes = nullptr;  // as SkinnyLinearArgs: weight_NK (not bf16), scale, zero
  const void* scale = nullptr;
  const void* zero = nullptr;
  void* out_NK = nullptr;  // [N, K], dense
  int64_t N = 0, K = 0;
  DType type = DType::kInt8;      // kFp8E4M3, kInt8, kInt4
  int group = 0;                  // int8, int4: 32 or 128
  DType out_type = DType::kBf16;  // kF32, kBf16, kF16
};

/// scale · (code - zero) in f32, which is exact for integers, rounded to the result's type.
cudaError_t widen_rows(const WidenRowsArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
