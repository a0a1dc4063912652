// rms_norm_kernel.h — launchers of the RMSNorm kernels: raw pointers, stream last, no torch. T
// rows, D width.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"
#include "backbone/kernels/cuda/norm_partials.h"

namespace euromodal {

struct RmsNormForwardArgs {
  const void* x_TD;
  const void* weight_D;
  void* y_TD;
  float* inv_rms_T;
  int64_t rows, width;
  float eps;
  DType type;  // f32, bf16, f16
};

struct RmsNormBackwardArgs {
  const void* dy_TD;
  const void* x_TD;
  const void* weight_D;
  const float* inv_rms_T;
  void* dx_TD;
  void* dweight_D;    // null: not wanted (a frozen weight), no scratch either
  float* partial_PD;  // [kNormPartials, D] scratch
  int64_t rows, width;
  DType type;  // f32, bf16, f16
};

cudaError_t rms_norm_forward(const RmsNormForwardArgs& args, cudaStream_t stream) noexcept;
/// Sums in a fixed order: the same bits on every run.
cudaError_t rms_norm_backward(const RmsNormBackwardArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
