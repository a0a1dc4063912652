// linear_ref.cpp — y = x Wᵀ + b in ATen's plainest operators.
#include "backbone/kernels/linear/linear_ref.h"

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor linear_ref(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                      const at::Tensor& bias_O) {
  at::Tensor y_TO = at::matmul(x_TI, weight_OI.t());
  return bias_O.defined() ? y_TO + bias_O : y_TO;
}

}  // namespace euromodal
