// media_launch.h — picture and sound kernels with arguments made of tensors, on a given stream.
// Without LibTorch's CUDA half, so that tests run it over the emulated kernels.
#pragma once
#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda_ops.h"

namespace euromodal {

/// cudaErrorInvalidValue as the launchers.
cudaError_t launch_image_transform(const ImageTransformJob& job, cudaStream_t stream);
cudaError_t launch_log_mel(const LogMelJob& job, cudaStream_t stream);

}  // namespace euromodal
