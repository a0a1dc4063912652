// rope_kernel.h — launcher of the rotation of queries or keys on CUDA, forward and backward: raw
// pointers, stream last, no torch. T rows, H heads, N head width, P positions of the table.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"
#include "backbone/kernels/rope/mrope_axis.h"

namespace euromodal {

struct RopeRotateArgs {
  const void* x_THN = nullptr;
  int64_t x_row = 0,
          x_head = 0;     // elements between rows and between heads; a head's are neighbours
  void* y_THN = nullptr;  // may be x_THN with the same distances
  int64_t y_row = 0, y_head = 0;
  const float* cos_PN = nullptr;  // tables as rope()'s, both halves of a row alike
  const float* sin_PN = nullptr;
  int64_t P = 0;
  const int64_t* position_T = nullptr;  // M-RoPE: [3, T]. Outside [0, P): the numbers become NaN.
  bool mrope = false;
  MropeSections sections{};
  int64_t T = 0, H = 0, N = 0;
  bool inverse = false;       // by the negative angle: the gradient
  DType type = DType::kBf16;  // f32, bf16, f16
};

/// Rounded as rope(): tables and products to the dtype. cudaErrorInvalidValue: N odd or above 2048.
cudaError_t rope_rotate(const RopeRotateArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
