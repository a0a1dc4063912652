// layer_norm_kernel.cu — layer norm on CUDA, forward and backward, by the kernels of
// cuda/norm_rows.h. Reference: layer_norm_ref.cpp.
#include "backbone/kernels/cuda/norm_rows.h"
#include "backbone/kernels/layer_norm/layer_norm_kernel.h"

namespace euromodal {

cudaError_t layer_norm_forward(const LayerNormForwardArgs& a, cudaStream_t stream) noexcept {
  return for_kernel_dtype(a.type, [&](auto zero) {
    using T = decltype(zero);
    return launch_norm_forward<true>(
        NormForwardRows<T>{static_cast<const T*>(a.x_TD), static_cast<const T*>(a.weight_D),
                           static_cast<const T*>(a.bias_D), static_cast<T*>(a.y_TD), a.mean_T,
                           a.inv_T, a.rows, a.width, a.eps},
        stream);
  });
}

cudaError_t layer_norm_backward(const LayerNormBackwardArgs& a, cudaStream_t stream) noexcept {
  return for_kernel_dtype(a.type, [&](auto zero) {
    using T = decltype(zero);
    return launch_norm_backward<true>(
        NormBackwardRows<T>{static_cast<const T*>(a.dy_TD), static_cast<const T*>(a.x_TD),
                            static_cast<const T*>(a.weight_D), a.mean_T, a.inv_T,
                            static_cast<T*>(a.dx_TD),
                            a.dweight_D != nullptr ? a.weight_partial_PD : nullptr,
                            a.dbias_D != nullptr ? a.bias_partial_PD : nullptr, a.rows, a.width},
        static_cast<T*>(a.dweight_D), static_cast<T*>(a.dbias_D), stream);
  });
}

}  // namespace euromodal
