// media_transforms.cpp — image_transform and log_mel of cuda_ops.h.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/media_launch.h"
#include "backbone/cuda/operators.h"

namespace euromodal {

void cuda::image_transform(const ImageTransformJob& job) {
  const c10::cuda::CUDAGuard guard(job.rgb_HWC.device());
  check_launch(launch_image_transform(job, c10::cuda::getCurrentCUDAStream()), "image_transform");
}

void cuda::log_mel(const LogMelJob& job) {
  const c10::cuda::CUDAGuard guard(job.samples_WS.device());
  check_launch(launch_log_mel(job, c10::cuda::getCurrentCUDAStream()), "log_mel");
}

}  // namespace euromodal
