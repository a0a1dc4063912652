// rms_norm_kernel.cu — RMSNorm on CUDA, forward and backward, by the kernels of cuda/norm_rows.h.
// Reference: rms_norm_ref.cpp.
#include "backbone/kernels/cuda/norm_rows.h"
#include "backbone/kernels/rms_norm/rms_norm_kernel.h"

namespace euromodal {

cudaError_t rms_norm_forward(const RmsNormForwardArgs& a, cudaStream_t stream) noexcept {
  return for_kernel_dtype(a.type, [&](auto zero) {
    using T = decltype(zero);
    return launch_norm_forward<false>(
        NormForwardRows<T>{static_cast<const T*>(a.x_TD), static_cast<const T*>(a.weight_D),
                           nullptr, static_cast<T*>(a.y_TD), nullptr, a.inv_rms_T, a.rows, a.width,
                           a.eps},
        stream);
  });
}

cudaError_t rms_norm_backward(const RmsNormBackwardArgs& a, cudaStream_t stream) noexcept {
  return for_kernel_dtype(a.type, [&](auto zero) {
    using T = decltype(zero);
    return launch_norm_backward<false>(
        NormBackwardRows<T>{
            static_cast<const T*>(a.dy_TD), static_cast<const T*>(a.x_TD),
            static_cast<const T*>(a.weight_D), nullptr, a.inv_rms_T, static_cast<T*>(a.dx_TD),
            a.dweight_D != nullptr ? a.partial_PD : nullptr, nullptr, a.rows, a.width},
        static_cast<T*>(a.dweight_D), static_cast<T*>(nullptr), stream);
  });
}

}  // namespace euromodal
