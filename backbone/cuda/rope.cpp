// rope.cpp — the rotation of queries and keys: tensors to launch arguments.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/rope/rope_kernel.h"

namespace euromodal::cuda {

at::Tensor rope_rotate(const RopeRotation& turn) {
  const c10::cuda::CUDAGuard guard(turn.x_THN.device());
  const at::Tensor x = turn.x_THN.stride(2) == 1 ? turn.x_THN : turn.x_THN.contiguous();
  const at::Tensor cos = turn.cos_PN.contiguous(), sin = turn.sin_PN.contiguous(),
                   positions = turn.positions.contiguous();
  TORCH_CHECK(cos.device() == x.device() && sin.device() == x.device(), "rope: the tables are on ",
              cos.device(), ", expected ", x.device());
  at::Tensor y_THN = at::empty(x.sizes(), x.options());
  const RopeRotateArgs args{.x_THN = x.const_data_ptr(),
                            .x_row = x.stride(0),
                            .x_head = x.stride(1),
                            .y_THN = y_THN.mutable_data_ptr(),
                            .y_row = y_THN.stride(0),
                            .y_head = y_THN.stride(1),
                            .cos_PN = cos.const_data_ptr<float>(),
                            .sin_PN = sin.const_data_ptr<float>(),
                            .P = cos.size(0),
                            .position_T = positions.const_data_ptr<int64_t>(),
                            .mrope = positions.dim() == 2,
                            .sections = turn.sections,
                            .T = x.size(0),
                            .H = x.size(1),
                            .N = x.size(2),
                            .inverse = turn.inverse,
                            .type = kernel_dtype(x, "rope")};
  check_launch(euromodal::rope_rotate(args, c10::cuda::getCurrentCUDAStream()), "rope_rotate");
  return y_THN;
}

}  // namespace euromodal::cuda
