// layer_norm_kernel.h — launchers of layer norm on CUDA: raw pointers, stream last, no torch. T
// rows, D width.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"
#include "backbone/kernels/cuda/norm_partials.h"

namespace euromodal {

struct LayerNormForwardArgs {
  const void* x_TD;
  const void* weight_D;
  const void* bias_D;
  void* y_TD;
  float* mean_T;
  float* inv_T;  // 1 / sqrt(variance + eps)
  int64_t rows, width;
  float eps;
  DType type;  // f32, bf16, f16
};

struct LayerNormBackwardArgs {
  const void* dy_TD;
  const void* x_TD;
  const void* weight_D;
  const float* mean_T;
  const float* inv_T;
  void* dx_TD;               // null: not wanted
  void* dweight_D;           // null: not wanted, no scratch either
  void* dbias_D;             // likewise
  float* weight_partial_PD;  // [kNormPartials, D] scratch
  float* bias_partial_PD;    // likewise
  int64_t rows, width;
  DType type;
};

/// Computed in f32 and rounded once.
cudaError_t layer_norm_forward(const LayerNormForwardArgs& args, cudaStream_t stream) noexcept;
/// Sums in a fixed order: the same bits on every run.
cudaError_t layer_norm_backward(const LayerNormBackwardArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
