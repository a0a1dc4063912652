// float8_widen_kernel.h — launcher of widen_float8() on CUDA: a matrix of one byte a number, with a
// scale for each row, as a plain one. O outputs (rows), I inputs.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

struct Float8WidenArgs {
  const void* codes_OI = nullptr;  // e4m3, dense
  const float* scale_O = nullptr;
  void* out_OI = nullptr;  // dense
  int64_t O = 0, I = 0;
  DType type = DType::kBf16;  // of the result: kF32, kBf16, kF16
};

/// code · scale in f32, rounded to the result's type: with powers of two as scales, what the codes
/// stand for.
cudaError_t float8_widen(const Float8WidenArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
