// image_transform_kernel.h — launcher of the image transform of encoders/preprocess on the device:
// resize, crop, rescale and normalise. Raw pointers, no torch. H, W height and width of the
// picture.
#pragma once
#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

namespace euromodal {

/// One axis of a resize: output position o is the sum over k of weight[k][o] · input[first[o] + k],
/// weights with 22 fraction bits (2^22 where the axis keeps its size). On the device.
struct ResampleAxis {
  const int32_t* first_O;
  const int32_t* weight_KO;  // 0 where an output has fewer taps
  int64_t taps, size;        // K, O
};

struct ImageTransformArgs {
  const uint8_t* rgb_HWC;
  int64_t height, width;
  ResampleAxis columns, rows;  // sizes: width and height of the resized picture
  bool rows_first;             // which pass comes first: its results are rounded to 8 bits
  /// What of the resized picture is wanted; black outside of it.
  int64_t top, left, out_height, out_width;
  const float* value_C256;  // normalised value of each byte in each channel
  uint8_t* middle;          // image_transform_workspace() bytes: the picture between the passes
  float* x_CHW;             // [3, out_height, out_width]
};

/// Bytes.
size_t image_transform_workspace(const ImageTransformArgs& args) noexcept;

/// Equal to ImageTransform::apply() to the last bit. cudaErrorInvalidValue: sizes below 1 or above
/// 2^20, taps below 1.
cudaError_t image_transform(const ImageTransformArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
