// library.cpp — entry of libeuromodal_cuda.so: tensors in, kernels launched on the current stream,
// and the table of cuda_ops.h. This file and the .cu files are the only ones that see CUDA; the
// library is loaded by open_device() (backbone/device.cpp).
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "backbone/device.h"
#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/rms_norm/rms_norm_kernel.h"

namespace euromodal {
namespace {

DType kernel_dtype(const at::Tensor& x_TD) {
  TORCH_CHECK(x_TD.scalar_type() == at::kFloat || x_TD.scalar_type() == at::kBFloat16,
              "rms_norm on CUDA takes float32 and bfloat16, got ", x_TD.scalar_type());
  return x_TD.scalar_type() == at::kFloat ? DType::kF32 : DType::kBf16;
}

void check_launch(cudaError_t error, const char* what) {
  TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

std::tuple<at::Tensor, at::Tensor> rms_norm_forward_cuda(const at::Tensor& x_TD,
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
                                .type = kernel_dtype(x)};
  check_launch(rms_norm_forward(args, c10::cuda::getCurrentCUDAStream()), "rms_norm_forward");
  return {y_TD, inv_rms_T};
}

std::tuple<at::Tensor, at::Tensor> rms_norm_backward_cuda(const at::Tensor& dy_TD,
                                                          const at::Tensor& x_TD,
                                                          const at::Tensor& weight_D,
                                                          const at::Tensor& inv_rms_T) {
  const c10::cuda::CUDAGuard guard(x_TD.device());
  const at::Tensor dy = dy_TD.contiguous(), x = x_TD.contiguous(), w = weight_D.contiguous();
  at::Tensor dx_TD = at::empty_like(x), dweight_D = at::empty_like(w),
             partial_PD = at::empty({kRmsNormPartials, x.size(1)}, x.options().dtype(at::kFloat));
  const RmsNormBackwardArgs args{.dy_TD = dy.const_data_ptr(),
                                 .x_TD = x.const_data_ptr(),
                                 .weight_D = w.const_data_ptr(),
                                 .inv_rms_T = inv_rms_T.const_data_ptr<float>(),
                                 .dx_TD = dx_TD.mutable_data_ptr(),
                                 .dweight_D = dweight_D.mutable_data_ptr(),
                                 .partial_PD = partial_PD.mutable_data_ptr<float>(),
                                 .rows = x.size(0),
                                 .width = x.size(1),
                                 .type = kernel_dtype(x)};
  check_launch(rms_norm_backward(args, c10::cuda::getCurrentCUDAStream()), "rms_norm_backward");
  return {dx_TD, dweight_D};
}

}  // namespace
}  // namespace euromodal

extern "C" {

int euromodal_cuda_abi() { return euromodal::kCudaAbi; }

const euromodal::CudaOps* euromodal_cuda_ops() {
  static const euromodal::CudaOps ops{.rms_norm_forward = &euromodal::rms_norm_forward_cuda,
                                      .rms_norm_backward = &euromodal::rms_norm_backward_cuda};
  return &ops;
}
}
