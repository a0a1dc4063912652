// distillation.cpp — rows of the fused distillation loss: tensors to launch arguments.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/distillation/distillation_kernel.h"

namespace euromodal::cuda {

void distillation_rows(const DistillationChunk& chunk) {
  const c10::cuda::CUDAGuard guard(chunk.student_CV.device());
  TORCH_CHECK(chunk.student_CV.is_contiguous() && chunk.teacher_CV.is_contiguous() &&
                  chunk.loss_C.is_contiguous(),
              "distillation: logits and losses must be contiguous");
  const DistillationRowsArgs args{
      .student_RV = chunk.student_CV.mutable_data_ptr(),
      .teacher_RV = chunk.teacher_CV.const_data_ptr(),
      .row_weight_R =
          chunk.row_weight_C.defined() ? chunk.row_weight_C.const_data_ptr<float>() : nullptr,
      .loss_R = chunk.loss_C.mutable_data_ptr<float>(),
      .rows = chunk.student_CV.size(0),
      .vocab = chunk.student_CV.size(1),
      .inverse_temperature = static_cast<float>(1.0 / chunk.temperature),
      .gradient = chunk.gradient,
      .type = kernel_dtype(chunk.student_CV, "distillation")};
  check_launch(euromodal::distillation_rows(args, c10::cuda::getCurrentCUDAStream()),
               "distillation_rows");
}

}  // namespace euromodal::cuda
