// preprocess.h — from raw media to what an encoder takes, as plain structs; pure functions live
// beside it (log_mel.h, image_transform.h, frames.h).
#pragma once
#include <cstdint>

#include <ATen/core/Tensor.h>

namespace euromodal {

/// One media item, ready for its encoder.
///   picture  x [1, 3, H, W] f32      clip  x [F, 3, H, W] f32      sound  x [W, M, F] f32: W
///   windows of M mel bins and F frames
struct EncoderInput {
  at::Tensor x;
  int64_t valid = 0;  // sound: samples (16 kHz) before padding; else unused
};

}  // namespace euromodal
