// layer_norm_ref.cpp — layer norm in ATen's plainest operators, computed in fp32 (f64 for f64).
#include "backbone/kernels/layer_norm/layer_norm_ref.h"

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor layer_norm_ref(const at::Tensor& x_TD, const at::Tensor& weight_D,
                          const at::Tensor& bias_D, double eps) {
  const at::ScalarType wide = x_TD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor x = x_TD.to(wide);
  const at::Tensor centred = x - x.mean(1, /*keepdim=*/true);
  const at::Tensor rstd = at::rsqrt(centred.pow(2).mean(1, /*keepdim=*/true) + eps);
  return (centred * rstd * weight_D.to(wide) + bias_D.to(wide)).to(x_TD.scalar_type());
}

}  // namespace euromodal
