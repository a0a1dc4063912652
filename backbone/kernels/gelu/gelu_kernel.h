// gelu_kernel.h — launchers of GELU and its gradient on CUDA: raw pointers, stream last, no torch.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"
#include "backbone/kernels/gelu/gelu_kind.h"

namespace euromodal {

struct GeluArgs {
  const void* x;
  const void* dy;  // backward only
  void* y;         // backward: dx. May be x or dy.
  int64_t count;   // neighbouring elements
  GeluKind kind;
  DType type;  // f32, bf16, f16
};

/// Computed in f32; quick GELU is rounded to the dtype between its three steps, as transformers'.
cudaError_t gelu_forward(const GeluArgs& args, cudaStream_t stream) noexcept;
/// Computed in f32 and rounded once.
cudaError_t gelu_backward(const GeluArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
