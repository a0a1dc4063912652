// widen_rows.cpp — a quantised weight as a plain matrix: tensors to launch arguments.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/skinny_linear/widen_rows_kernel.h"

namespace euromodal::cuda {

at::Tensor widen_rows(const SkinnyWeight& weight, at::ScalarType dtype) {
  const c10::cuda::CUDAGuard guard(weight.codes.device());
  at::Tensor out_OI =
      at::empty({weight.outputs, weight.inputs}, weight.codes.options().dtype(dtype));
  const WidenRowsArgs args{.codes = weight.codes.const_data_ptr(),
                           .scale = weight.scale.const_data_ptr(),
                           .zero = weight.zero.defined() ? weight.zero.const_data_ptr() : nullptr,
                           .out_NK = out_OI.mutable_data_ptr(),
                           .N = weight.outputs,
                           .K = weight.inputs,
                           .type = weight.form.type,
                           .group = static_cast<int>(weight.form.group),
                           .out_type = kernel_dtype(out_OI, "widen_rows")};
  check_launch(euromodal::widen_rows(args, c10::cuda::getCurrentCUDAStream()), "widen_rows");
  return out_OI;
}

}  // namespace euromodal::cuda
