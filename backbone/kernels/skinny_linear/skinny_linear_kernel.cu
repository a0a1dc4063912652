// skinny_linear_kernel.cu — see skinny_linear_kernel.h: checks, and the forms of floats. Reference:
// skinny_linear_ref.cpp. The kernel: skinny_kernel.h.
#include "backbone/kernels/skinny_linear/skinny_kernel.h"

namespace euromodal {

namespace {

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

bool fits(const SkinnyLinearArgs& a) {
  if (a.M < 0 || a.M > 16 || a.N < 0 || a.K <= 0 || a.N > INT32_MAX || a.K > (1 << 24))
    return false;
  if (a.epilogue == SkinnyEpilogue::kSwiglu && a.N % 2 != 0) return false;
  const bool bf16 = a.weight_type == DType::kBf16,
             integers = a.weight_type == DType::kInt8 || a.weight_type == DType::kInt4;
  return a.K % (bf16 ? 32 : 8) == 0 && (bf16 || a.scale != nullptr) &&
         (!integers || a.group == 32 || a.group == 128) && aligned(a.x_MK) &&
         aligned(a.weight_NK) && aligned(a.norm_weight_K) && aligned(a.scale) && aligned(a.zero);
}

}  // namespace

cudaError_t skinny_linear_floats(const SkinnyLinearArgs& a, cudaStream_t stream) {
  return a.weight_type == DType::kBf16 ? skinny::launch_floats<WidenBf16>(a, stream)
                                       : skinny::launch_floats<WidenFp8>(a, stream);
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
