// launch_check.h — what the glue files between tensors and kernels share.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

inline void check_launch(cudaError_t error, const char* what) {
  TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

/// f32, bf16 or f16; an error naming the operator for the others.
inline DType kernel_dtype(const at::Tensor& x, const char* what) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return DType::kF32;
    case at::kBFloat16:
      return DType::kBf16;
    case at::kHalf:
      return DType::kF16;
    default:
      TORCH_CHECK(false, what, " on CUDA takes float32, bfloat16 and float16, got ",
                  x.scalar_type());
  }
}

}  // namespace euromodal
