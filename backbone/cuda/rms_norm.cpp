// rms_norm.cpp — RMSNorm: tensors to launch arguments.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/rms_norm/rms_norm_kernel.h"

namespace euromodal::cuda {

std::tuple<at::Tensor, at::Tensor> rms_norm_forward(const at::Tensor& x_TD,
                                                    const at::Tensor& weight_D, double eps) {
  const c10::cuda::CUDAGuard guard(x_TD.device());
  const at::Tensor x = x_TD.contiguous(), w = weight_D.contiguous();
  at::Tensor y_TD = at::empty_like(x),
             inv_rms_T = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
  const RmsNormForwardArgs args{.x_TD = x.const_data_ptr(),
                                .weight_D = w.const_data_ptr(),
                                .y_TD = y_TD.mutable_data_ptr(),
                                .inv_rms_T = inv_rms_T.mutable_data_ptr<float>(),
                                .rows = x.size(0),
                                .width = x.size(1),
                                .eps = static_cast<float>(eps),
                                .type = kernel_dtype(x, "rms_norm")};
  check_launch(euromodal::rms_norm_forward(args, c10::cuda::getCurrentCUDAStream()),
               "rms_norm_forward");
  return {y_TD, inv_rms_T};
}

std::tuple<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& dy_TD,
                                                     const at::Tensor& x_TD,
                                                     const at::Tensor& weight_D,
                                                     const at::Tensor& inv_rms_T,
                                                     bool wants_dweight) {
  const c10::cuda::CUDAGuard guard(x_TD.device());
  const at::Tensor dy = dy_TD.contiguous(), x = x_TD.contiguous(), w = weight_D.contiguous();
  at::Tensor dx_TD = at::empty_like(x), dweight_D, partial_PD;
  if (wants_dweight) {
    dweight_D = at::empty_like(w);
    partial_PD = at::empty({kNormPartials, x.size(1)}, x.options().dtype(at::kFloat));
  }
  const RmsNormBackwardArgs args{
      .dy_TD = dy.const_data_ptr(),
      .x_TD = x.const_data_ptr(),
      .weight_D = w.const_data_ptr(),
      .inv_rms_T = inv_rms_T.const_data_ptr<float>(),
      .dx_TD = dx_TD.mutable_data_ptr(),
      .dweight_D = wants_dweight ? dweight_D.mutable_data_ptr() : nullptr,
      .partial_PD = wants_dweight ? partial_PD.mutable_data_ptr<float>() : nullptr,
      .rows = x.size(0),
      .width = x.size(1),
      .type = kernel_dtype(x, "rms_norm")};
  check_launch(euromodal::rms_norm_backward(args, c10::cuda::getCurrentCUDAStream()),
               "rms_norm_backward");
  return {dx_TD, dweight_D};
}

}  // namespace euromodal::cuda
