// gelu.cpp — GELU: tensors to launch arguments.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/gelu/gelu_kernel.h"

namespace euromodal::cuda {

at::Tensor gelu_forward(const at::Tensor& x_any, GeluKind kind) {
  const c10::cuda::CUDAGuard guard(x_any.device());
  const at::Tensor x = x_any.contiguous();
  at::Tensor y = at::empty(x.sizes(), x.options());
  const GeluArgs args{.x = x.const_data_ptr(),
                      .dy = nullptr,
                      .y = y.mutable_data_ptr(),
                      .count = x.numel(),
                      .kind = kind,
                      .type = kernel_dtype(x, "gelu")};
  check_launch(euromodal::gelu_forward(args, c10::cuda::getCurrentCUDAStream()), "gelu_forward");
  return y;
}

at::Tensor gelu_backward(const at::Tensor& dy_any, const at::Tensor& x_any, GeluKind kind) {
  const c10::cuda::CUDAGuard guard(x_any.device());
  const at::Tensor x = x_any.contiguous(), dy = dy_any.contiguous();
  at::Tensor dx = at::empty(x.sizes(), x.options());
  const GeluArgs args{.x = x.const_data_ptr(),
                      .dy = dy.const_data_ptr(),
                      .y = dx.mutable_data_ptr(),
                      .count = x.numel(),
                      .kind = kind,
                      .type = kernel_dtype(x, "gelu")};
  check_launch(euromodal::gelu_backward(args, c10::cuda::getCurrentCUDAStream()), "gelu_backward");
  return dx;
}

}  // namespace euromodal::cuda
