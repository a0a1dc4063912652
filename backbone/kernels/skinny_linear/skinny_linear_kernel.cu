// skinny_linear_kernel.cu — see skinny_linear_kernel.h: checks, and the forms of floats. Reference:
// skinny_linear_ref.cpp. The kernel: skinny_kernel.h.
#include "backbone/kernels/skinny_linear/skinny_kernel.h"

namespace euromodal {

namespace {

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

bool fits(const SkinnyLinearArgs& a) {
  if (a.M < 0 || a.M > 16 || a.N < 0 || a.K <= 0 || a.N > INT32_MAX || a.K > (1 << 24))
    return false;
  if (a.N * skinny_row_bytes(a.weight_type, a.K) / 16 > UINT32_MAX) return false;  // Reader::line
  if (a.epilogue == SkinnyEpilogue::kSwiglu && a.N % 2 != 0) return false;
  const bool bf16 = a.weight_type == DType::kBf16,
             integers = a.weight_type == DType::kInt8 || a.weight_type == DType::kInt4;
  return a.K % (bf16 ? 32 : 8) == 0 && (bf16 || a.scale != nullptr) &&
         (!integers || a.group == 32 || a.group == 128) && aligned(a.x_MK) &&
         aligned(a.weight_NK) && aligned(a.norm_weight_K) && aligned(a.scale) && aligned(a.zero);
}

}  // namespace

cudaError_t skinny_linear_floats(const SkinnyLinearArgs& a, cudaStream_t stream) {
  return a.weight_type == DType::kBf16 ? skinny::launch_shaped<WidenBf16>(a, stream)
                                       : skinny::launch_shaped<WidenFp8>(a, stream);
}

SkinnyAhead skinny_ahead(const SkinnyLinearArgs& next, int64_t bytes) {
  SkinnyAhead out;
  if (next.N == 0 || next.M == 0 || !aligned(next.weight_NK) || !aligned(next.scale)) return out;
  const skinny::Shape shape = skinny::shape_of(next);
  const bool swiglu = next.epilogue == SkinnyEpilogue::kSwiglu;
  const int64_t slots = skinny::slots_of(shape), tiles = skinny::tiles_of(next),
                outputs = swiglu ? next.N / 2 : next.N,
                rows = (slots < tiles ? slots : tiles) * skinny::tile_outputs(next);
  out.weight = next.weight_NK;
  out.stride = skinny_row_bytes(next.weight_type, next.K);
  out.second = swiglu ? outputs : 0;
  out.rows = static_cast<int>(rows < outputs ? rows : outputs);
  const int64_t each = bytes / (out.rows * (swiglu ? 2 : 1)) / kSkinnyUnit * kSkinnyUnit;
  out.bytes = static_cast<int>(each < out.stride ? each : out.stride);
  if (out.bytes <= 0) return SkinnyAhead{};
  out.scale_bytes = skinny::scale_row_bytes(next);
  if (out.scale_bytes > 0) out.scale = next.scale;
  return out;
}

cudaError_t skinny_linear(const SkinnyLinearArgs& a, cudaStream_t stream) noexcept {
  if (a.M == 0 || a.N == 0) return cudaSuccess;
  if (!fits(a)) return cudaErrorInvalidValue;
  switch (a.weight_type) {
    case DType::kBf16:
    case DType::kFp8E4M3:
      return skinny_linear_floats(a, stream);
    case DType::kInt8:
      return skinny_linear_int8(a, stream);
    case DType::kInt4:
      return skinny_linear_int4(a, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace euromodal
