// device_preprocess.h — the picture transform and the log-mel spectrogram by the kernels of a GPU:
// raw bytes and samples go there, what an encoder takes is made there, and nothing waits for it.
#pragma once
#include <ATen/core/Tensor.h>

#include "encoders/preprocess/image_transform.h"
#include "encoders/preprocess/log_mel.h"

namespace euromodal {

/// ImageTransform::apply() on `device`, to the last bit: [1, 3, H, W] f32 there.
at::Tensor transform_on_device(const ImageTransform& transform, const Image& image,
                               at::Device device);

/// Does the kernel know transforms of this size?
bool log_mel_fits_device(const LogMelConfig& config);
/// log_mel_windows() on `device`, within 1e-4 of it; errors as there.
EncoderInput log_mel_on_device(const Pcm& pcm, const LogMelConfig& config, at::Device device);

}  // namespace euromodal
