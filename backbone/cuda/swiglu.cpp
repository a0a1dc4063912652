// swiglu.cpp — silu(gate) · up: tensors to launch arguments. Rows may lie apart.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/swiglu/swiglu_kernel.h"

namespace euromodal::cuda {

namespace {

at::Tensor neighbours(const at::Tensor& x_TF) {
  return x_TF.stride(1) == 1 || x_TF.size(1) <= 1 ? x_TF : x_TF.contiguous();
}

}  // namespace

at::Tensor swiglu_forward(const at::Tensor& gate_TF, const at::Tensor& up_TF) {
  const c10::cuda::CUDAGuard guard(gate_TF.device());
  const at::Tensor gate = neighbours(gate_TF), up = neighbours(up_TF);
  at::Tensor y_TF = at::empty(gate.sizes(), gate.options());
  const SwigluForwardArgs args{.gate_TF = gate.const_data_ptr(),
                               .up_TF = up.const_data_ptr(),
                               .y_TF = y_TF.mutable_data_ptr(),
                               .rows = gate.size(0),
                               .width = gate.size(1),
                               .gate_stride = gate.stride(0),
                               .up_stride = up.stride(0),
                               .y_stride = y_TF.stride(0),
                               .type = kernel_dtype(gate, "swiglu")};
  check_launch(euromodal::swiglu_forward(args, c10::cuda::getCurrentCUDAStream()),
               "swiglu_forward");
  return y_TF;
}

void swiglu_backward(const at::Tensor& dy_TF, const at::Tensor& gate_TF, const at::Tensor& up_TF,
                     const at::Tensor& dgate_TF, const at::Tensor& dup_TF) {
  const c10::cuda::CUDAGuard guard(gate_TF.device());
  const at::Tensor dy = neighbours(dy_TF), gate = neighbours(gate_TF), up = neighbours(up_TF);
  const SwigluBackwardArgs args{.dy_TF = dy.const_data_ptr(),
                                .gate_TF = gate.const_data_ptr(),
                                .up_TF = up.const_data_ptr(),
                                .dgate_TF = dgate_TF.mutable_data_ptr(),
                                .dup_TF = dup_TF.mutable_data_ptr(),
                                .rows = gate.size(0),
                                .width = gate.size(1),
                                .dy_stride = dy.stride(0),
                                .gate_stride = gate.stride(0),
                                .up_stride = up.stride(0),
                                .dgate_stride = dgate_TF.stride(0),
                                .dup_stride = dup_TF.stride(0),
                                .type = kernel_dtype(gate, "swiglu")};
  check_launch(euromodal::swiglu_backward(args, c10::cuda::getCurrentCUDAStream()),
               "swiglu_backward");
}

}  // namespace euromodal::cuda
