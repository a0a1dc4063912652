// swiglu_kernel.h — launchers of silu(gate) · up and its gradient on CUDA: raw pointers, stream
// last, no torch. T rows, F width; rows lie `stride` elements apart, so that gate and up may be the
// halves of one row of a fused projection.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

struct SwigluForwardArgs {
  const void* gate_TF;
  const void* up_TF;
  void* y_TF;
  int64_t rows, width;
  int64_t gate_stride, up_stride, y_stride;
  DType type;  // f32, bf16, f16
};

struct SwigluBackwardArgs {
  const void* dy_TF;
  const void* gate_TF;
  const void* up_TF;
  void* dgate_TF;  // may be gate_TF
  void* dup_TF;    // may be up_TF
  int64_t rows, width;
  int64_t dy_stride, gate_stride, up_stride, dgate_stride, dup_stride;
  DType type;
};

/// silu is rounded to the dtype before the product, as transformers' LlamaMLP.
cudaError_t swiglu_forward(const SwigluForwardArgs& args, cudaStream_t stream) noexcept;
/// Computed in f32 and rounded once.
cudaError_t swiglu_backward(const SwigluBackwardArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
