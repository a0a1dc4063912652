// adamw_kernel.h — launchers of one AdamW update over a flat buffer (Loshchilov and Hutter 2019,
// arXiv:1711.05101) and of the sums of squares for a gradient's norm. What the update is multiplied
// with, and whether it happens, may lie on the device: a step needs no wait. Raw pointers, stream
// last, no torch.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

/// With g = gradient · scale (· *clip):
///   m += (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g g
///   p = p · decay - step_size m / (sqrt(v) / root_correction + eps);  values = p, rounded
struct AdamWArgs {
  float* master;           // p
  const void* gradient;    // f32, bf16 or f16
  float* exp_avg;          // m
  float* exp_avg_sq;       // v
  void* values = nullptr;  // null: nobody wants the rounded values
  int64_t count = 0;
  float scale = 1.0F, beta1 = 0.0F, beta2 = 0.0F, decay = 1.0F, step_size = 0.0F,
        root_correction = 1.0F, eps = 0.0F;
  const float* clip = nullptr;     // on the device; null: 1
  const int32_t* apply = nullptr;  // on the device; null: 1. Where it is 0 nothing changes.
  DType gradient_type = DType::kF32;
  DType values_type = DType::kBf16;  // f32, bf16, f16
};

/// In the order of operations, and with the roundings, of the CPU's loop (training/optimizer.cpp):
/// the same bits.
cudaError_t adamw_update(const AdamWArgs& args, cudaStream_t stream) noexcept;

/// Numbers of a gradient's partial sums of squares: [kSquareParts] f64.
constexpr int64_t kSquareParts = 512;

struct SquareSumsArgs {
  const void* x = nullptr;
  int64_t count = 0;
  double* partial = nullptr;  // [kSquareParts], all written
  DType type = DType::kF32;   // f32, bf16, f16
};

/// First stage, once for each array: part b sums the squares of its share, in f64.
cudaError_t square_sums(const SquareSumsArgs& args, cudaStream_t stream) noexcept;

struct SquareTotalsArgs {
  const double* partial_BP = nullptr;  // of B arrays, [B, kSquareParts]
  int64_t arrays = 0;                  // B
  double* square_B = nullptr;          // sum of squares of each
};

/// Second stage. In a fixed order: the same bits on every run.
cudaError_t square_totals(const SquareTotalsArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
