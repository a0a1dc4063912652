// cross_entropy.cpp — rows of the fused cross-entropy: tensors to launch arguments.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/cross_entropy/cross_entropy_kernel.h"

namespace euromodal::cuda {

void cross_entropy_rows(const CrossEntropyChunk& chunk) {
  const c10::cuda::CUDAGuard guard(chunk.logits_CV.device());
  TORCH_CHECK(chunk.logits_CV.is_contiguous() && chunk.labels_C.is_contiguous() &&
                  chunk.loss_C.is_contiguous(),
              "cross_entropy: logits, labels and losses must be contiguous");
  const CrossEntropyRowsArgs args{.logits_RV = chunk.logits_CV.mutable_data_ptr(),
                                  .labels_R = chunk.labels_C.const_data_ptr<int64_t>(),
                                  .row_weight_R = chunk.row_weight_C.defined()
                                                      ? chunk.row_weight_C.const_data_ptr<float>()
                                                      : nullptr,
                                  .loss_R = chunk.loss_C.mutable_data_ptr<float>(),
                                  .rows = chunk.logits_CV.size(0),
                                  .vocab = chunk.logits_CV.size(1),
                                  .smoothing = static_cast<float>(chunk.smoothing),
                                  .z_loss = static_cast<float>(chunk.z_loss),
                                  .gradient = chunk.gradient,
                                  .type = kernel_dtype(chunk.logits_CV, "cross_entropy")};
  check_launch(euromodal::cross_entropy_rows(args, c10::cuda::getCurrentCUDAStream()),
               "cross_entropy_rows");
}

}  // namespace euromodal::cuda
