// skinny_linear_kernel.h — y = epilogue(norm(x) Wᵀ) for 1 to 16 rows of x: the linear of decoding,
// bound by reading W once. Weights bf16, fp8 (e4m3), int8 or int4. M rows, K inputs, N outputs.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

/// kSwiglu: rows [0, N/2) of W are the gate, [N/2, N) up; y is [M, N/2], silu(gate) · up with gate
/// and up rounded to bf16 first, as two linears and swiglu() would give.
enum class SkinnyEpilogue { kNone, kSwiglu };

struct SkinnyLinearArgs {
  const void* x_MK = nullptr;  // bf16
  /// [N, K]: bf16, e4m3 or int8; int4: [N, K/2] bytes, the lower half of a byte is the earlier
  /// code.
  const void* weight_NK = nullptr;
  /// fp8, int8: f32 [N], the weight is scale · code. int4: bf16 [N, K/group], the weight is
  /// scale · (code - zero).
  const void* scale = nullptr;
  const void* zero = nullptr;         // int4: bf16 [N, K/group], whole numbers 0 to 15; null: 8
  const void* bias_N = nullptr;       // bf16 or null
  const void* residual_MN = nullptr;  // bf16, added last, or null; may be y_MN itself
  const void* norm_weight_K =
      nullptr;  // bf16: x is RMS-normalised first, rounded as rms_norm(); null: not
  float norm_eps = 0.0F;
  void* y_MN = nullptr;
  DType y_type = DType::kBf16;  // or kF32: the numbers that bf16 holds, widened
  int64_t M = 0, N = 0, K = 0;
  DType weight_type = DType::kBf16;
  int group = 0;  // int4: 128
  SkinnyEpilogue epilogue = SkinnyEpilogue::kNone;
  bool dependent = false;  // may start before its predecessor ends (launch.h)
};

/// cudaErrorInvalidValue: M above 16, or K no multiple of 32 (bf16), 64 (fp8, int8) or 128 (int4).
/// A row's bits depend on no other row and not on M.
cudaError_t skinny_linear(const SkinnyLinearArgs& args, cudaStream_t stream) noexcept;

struct QuantizeRowsArgs {
  const void* weight_NK = nullptr;  // bf16
  void* codes = nullptr;            // as SkinnyLinearArgs::weight_NK
  void* scale = nullptr;            // as SkinnyLinearArgs::scale
  int64_t N = 0, K = 0;
  DType type = DType::kInt8;  // kFp8E4M3, kInt8, kInt4
  int group = 0;              // int4: 128
};

/// Symmetric, scale = largest magnitude / 448, 127 or 7 (1 where all are zero), rounded to the
/// scale's type before it is used; codes round to nearest even.
cudaError_t quantize_rows(const QuantizeRowsArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
