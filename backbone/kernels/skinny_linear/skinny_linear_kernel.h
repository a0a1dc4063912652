// skinny_linear_kernel.h — y = epilogue(norm(x) Wᵀ) for 1 to 16 rows of x: the linear of decoding,
// bound by reading W once. Weights bf16, fp8 (e4m3), int8 or int4. M rows, K inputs, N outputs, G
// groups of inputs. Layout of codes: skinny_layout.h.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

/// kSwiglu: rows [0, N/2) of W are the gate, [N/2, N) up; y is [M, N/2], silu(gate) · up with gate
/// and up rounded to bf16 first, as two linears and swiglu() would give.
enum class SkinnyEpilogue { kNone, kSwiglu };

/// What of a weight its kernel will read first: `bytes` of each of `rows` rows, `stride` bytes
/// apart, and all scales of these rows; with `second` the same again of the rows from that one on
/// (SwiGLU). Made by skinny_ahead().
struct SkinnyAhead {
  const void *weight = nullptr, *scale = nullptr;  // null: scales that cannot be asked for
  int64_t stride = 0, second = 0;
  int rows = 0, bytes = 0, scale_bytes = 0;
};

/// Bytes that a kernel asks to be brought into L2 before it can multiply, and as much again of the
/// next one's weight. H100 and H200 have 50 MB of L2.
inline constexpr int64_t kSkinnyL2Ahead = int64_t{12} << 20;

struct SkinnyLinearArgs {
  const void* x_MK = nullptr;  // bf16
  /// [N, skinny_row_bytes(weight_type, K)]: bf16; e4m3, i8 or 4-bit codes in units. Codes of
  /// padding count for nothing.
  const void* weight_NK = nullptr;
  /// fp8: f32 [N], the weight is scale · code. int8, int4: f16 [N, G] with G = skinny_groups(K,
  /// group), the weight is scale · (code - zero).
  const void* scale = nullptr;
  /// int8: i8 [N, G], null: 0. int4: u8 [N, G], 0 to 15, null: 8.
  const void* zero = nullptr;
  const void* bias_N = nullptr;       // bf16 or null
  const void* residual_MN = nullptr;  // bf16, added last, or null; may be y_MN itself
  const void* norm_weight_K =
      nullptr;  // bf16: x is RMS-normalised first, rounded as rms_norm(); null: not
  float norm_eps = 0.0F;
  void* y_MN = nullptr;
  DType y_type = DType::kBf16;  // or kF32: the numbers that bf16 holds, widened
  int64_t M = 0, N = 0, K = 0;
  DType weight_type = DType::kBf16;
  int group = 0;  // int8, int4: inputs that share a scale, 32 or 128
  SkinnyEpilogue epilogue = SkinnyEpilogue::kNone;
  bool dependent = false;             // may start before its predecessor ends (launch.h)
  int64_t l2_ahead = kSkinnyL2Ahead;  // bytes of this weight; 0: none
  SkinnyAhead ahead;                  // of the next kernel's weight; default: nothing
};

/// The first `bytes` that skinny_linear(next) will read, to be asked for by the kernel before it.
SkinnyAhead skinny_ahead(const SkinnyLinearArgs& next, int64_t bytes = kSkinnyL2Ahead);

/// Products of the codes with x are summed in f32 over a group, then times the scale over the row.
/// cudaErrorInvalidValue: M above 16, or K no multiple of 8 (bf16: 32). A row's bits depend on no
/// other row and not on M.
cudaError_t skinny_linear(const SkinnyLinearArgs& args, cudaStream_t stream) noexcept;

/// What skinny_linear() calls for arguments that it has checked; a file each, so that they compile
/// side by side.
cudaError_t skinny_linear_floats(const SkinnyLinearArgs& args, cudaStream_t stream);
cudaError_t skinny_linear_int8(const SkinnyLinearArgs& args, cudaStream_t stream);
cudaError_t skinny_linear_int4(const SkinnyLinearArgs& args, cudaStream_t stream);

struct QuantizeRowsArgs {
  const void* weight_NK = nullptr;  // bf16
  void* codes = nullptr;            // as SkinnyLinearArgs::weight_NK, padding too
  void* scale = nullptr;            // as SkinnyLinearArgs::scale
  void* zero = nullptr;             // int8, int4: zero points; null: symmetric
  int64_t N = 0, K = 0;
  DType type = DType::kInt8;  // kFp8E4M3, kInt8, kInt4
  int group = 0;              // int8, int4: 32 or 128
};

/// int8, int4: codes, scales and zero points of pack_weight() (packed_weight.h); where that finds a
/// weight that is not finite or too large, the scale is not finite. fp8: scale = largest magnitude
/// of a row / 448 (1 where all are zero), codes round to nearest even.
cudaError_t quantize_rows(const QuantizeRowsArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
