// layer_norm.cpp — layer norm: tensors to launch arguments.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/layer_norm/layer_norm_kernel.h"

namespace euromodal::cuda {

std::tuple<at::Tensor, at::Tensor> layer_norm_forward(const at::Tensor& x_TD,
                                                      const at::Tensor& weight_D,
                                                      const at::Tensor& bias_D, double eps) {
  const c10::cuda::CUDAGuard guard(x_TD.device());
  const at::Tensor x = x_TD.contiguous(), w = weight_D.contiguous(), b = bias_D.contiguous();
  at::Tensor y_TD = at::empty_like(x),
             stats_2T = at::empty({2, x.size(0)}, x.options().dtype(at::kFloat));
  auto* stats = stats_2T.mutable_data_ptr<float>();
  const LayerNormForwardArgs args{.x_TD = x.const_data_ptr(),
                                  .weight_D = w.const_data_ptr(),
                                  .bias_D = b.const_data_ptr(),
                                  .y_TD = y_TD.mutable_data_ptr(),
                                  .mean_T = stats,
                                  .inv_T = stats + x.size(0),
                                  .rows = x.size(0),
                                  .width = x.size(1),
                                  .eps = static_cast<float>(eps),
                                  .type = kernel_dtype(x, "layer_norm")};
  check_launch(euromodal::layer_norm_forward(args, c10::cuda::getCurrentCUDAStream()),
               "layer_norm_forward");
  return {y_TD, stats_2T};
}

LayerNormGrads layer_norm_backward(const at::Tensor& dy_TD, const at::Tensor& x_TD,
                                   const at::Tensor& weight_D, const at::Tensor& stats_2T,
                                   const LayerNormWanted& wanted) {
  const c10::cuda::CUDAGuard guard(x_TD.device());
  const at::Tensor dy = dy_TD.contiguous(), x = x_TD.contiguous(), w = weight_D.contiguous();
  LayerNormGrads out;
  at::Tensor partial_2PD;
  if (wanted.dx) out.dx_TD = at::empty_like(x);
  if (wanted.dweight) out.dweight_D = at::empty_like(w);
  if (wanted.dbias) out.dbias_D = at::empty_like(w);
  if (wanted.dweight || wanted.dbias)
    partial_2PD = at::empty({2, kNormPartials, x.size(1)}, x.options().dtype(at::kFloat));
  const auto data = [](const at::Tensor& t) {
    return t.defined() ? t.mutable_data_ptr() : nullptr;
  };
  auto* partial = static_cast<float*>(data(partial_2PD));
  const auto* stats = stats_2T.const_data_ptr<float>();
  const LayerNormBackwardArgs args{
      .dy_TD = dy.const_data_ptr(),
      .x_TD = x.const_data_ptr(),
      .weight_D = w.const_data_ptr(),
      .mean_T = stats,
      .inv_T = stats + x.size(0),
      .dx_TD = data(out.dx_TD),
      .dweight_D = data(out.dweight_D),
      .dbias_D = data(out.dbias_D),
      .weight_partial_PD = partial,
      .bias_partial_PD = partial != nullptr ? partial + kNormPartials * x.size(1) : nullptr,
      .rows = x.size(0),
      .width = x.size(1),
      .type = kernel_dtype(x, "layer_norm")};
  check_launch(euromodal::layer_norm_backward(args, c10::cuda::getCurrentCUDAStream()),
               "layer_norm_backward");
  return out;
}

}  // namespace euromodal::cuda
