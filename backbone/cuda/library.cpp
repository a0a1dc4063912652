// library.cpp — entry of libeuromodal_cuda.so: the table of cuda_ops.h, filled with the glue of
// operators.h. Only this folder and the .cu files see CUDA; the library is loaded by open_device()
// (backbone/device.cpp).
#include "backbone/cuda/operators.h"
#include "backbone/decoder.h"
#include "backbone/device.h"
#include "backbone/kernels/cuda_ops.h"

extern "C" {

int euromodal_cuda_abi() { return euromodal::kCudaAbi; }

const euromodal::CudaOps* euromodal_cuda_ops() {
  namespace cuda = euromodal::cuda;
  static const euromodal::CudaOps ops{
      .rms_norm_forward = &cuda::rms_norm_forward,
      .rms_norm_backward = &cuda::rms_norm_backward,
      .layer_norm_forward = &cuda::layer_norm_forward,
      .layer_norm_backward = &cuda::layer_norm_backward,
      .gelu_forward = &cuda::gelu_forward,
      .gelu_backward = &cuda::gelu_backward,
      .swiglu_forward = &cuda::swiglu_forward,
      .swiglu_backward = &cuda::swiglu_backward,
      .rope_rotate = &cuda::rope_rotate,
      .splice_forward = &cuda::splice_forward,
      .splice_backward = &cuda::splice_backward,
      .adamw_update = &cuda::adamw_update,
      .square_sums = &cuda::square_sums,
      .cross_entropy_rows = &cuda::cross_entropy_rows,
      .distillation_rows = &cuda::distillation_rows,
      .image_transform = &cuda::image_transform,
      .log_mel = &cuda::log_mel,
      .widen_rows = &cuda::widen_rows,
      .widen_float8 = &cuda::widen_float8,
      .make_decoder = &cuda::make_decoder,
  };
  return &ops;
}
}
