// rms_norm_ref.cpp — RMS norm in ATen's plainest operators: fp32, rounded, then times w.
#include "backbone/kernels/rms_norm/rms_norm_ref.h"

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor rms_norm_ref(const at::Tensor& x_TD, const at::Tensor& weight_D, double eps) {
  const at::ScalarType wide = x_TD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor x = x_TD.to(wide);
  const at::Tensor rstd = at::rsqrt(x.pow(2).mean(1, /*keepdim=*/true) + eps);
  return weight_D * (x * rstd).to(x_TD.scalar_type());
}

}  // namespace euromodal
