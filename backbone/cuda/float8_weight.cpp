// float8_weight.cpp — a float8 weight as a plain matrix: tensors to launch arguments.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/linear/float8_widen_kernel.h"

namespace euromodal::cuda {

at::Tensor widen_float8(const at::Tensor& codes_any, const at::Tensor& scale_any,
                        at::ScalarType dtype) {
  const c10::cuda::CUDAGuard guard(codes_any.device());
  const at::Tensor codes_OI = codes_any.contiguous(), scale_O = scale_any.contiguous();
  at::Tensor out_OI = at::empty(codes_OI.sizes(), codes_OI.options().dtype(dtype));
  const Float8WidenArgs args{.codes_OI = codes_OI.const_data_ptr(),
                             .scale_O = scale_O.const_data_ptr<float>(),
                             .out_OI = out_OI.mutable_data_ptr(),
                             .O = codes_OI.size(0),
                             .I = codes_OI.size(1),
                             .type = kernel_dtype(out_OI, "widen_float8")};
  check_launch(float8_widen(args, c10::cuda::getCurrentCUDAStream()), "float8_widen");
  return out_OI;
}

}  // namespace euromodal::cuda
