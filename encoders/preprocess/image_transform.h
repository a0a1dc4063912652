// image_transform.h — a picture to the normalised pixels an encoder takes. Reference: transformers'
// image processors of CLIP and SigLIP, PIL backend: resize, centre crop, rescale, normalise.
#pragma once
#include <array>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "core/json.h"
#include "encoders/media/media.h"
#include "encoders/preprocess/resize.h"

namespace euromodal {

struct ImageTransform {
  bool do_resize = true;
  int64_t height = 0, width = 0;  // target size, when shortest_edge is 0
  int64_t shortest_edge = 0;      // keeps the aspect ratio
  Resample resample = Resample::kBicubic;
  bool do_center_crop = false;
  int64_t crop_height = 0, crop_width = 0;
  bool do_rescale = true;
  double rescale_factor = 1.0 / 255.0;
  bool do_normalize = true;
  std::array<double, 3> mean = {0.5, 0.5, 0.5};
  std::array<double, 3> std = {0.5, 0.5, 0.5};

  /// What the classes of transformers take when a key is missing.
  static ImageTransform siglip_defaults();
  static ImageTransform clip_defaults();
  /// An image processor's JSON over `defaults`. `size`: a number (shortest edge), {height, width}
  /// or {shortest_edge}. ConfigError naming file and key.
  static ImageTransform from_json(const JsonView& json, const ImageTransform& defaults);

  /// Size of what apply() returns, as far as it does not depend on the picture: {0, 0} when it
  /// does.
  std::array<int64_t, 2> fixed_size() const;
  /// Height and width behind the resize of a picture, before the crop. DataError: too narrow.
  std::array<int64_t, 2> resized(int64_t height, int64_t width) const;
  /// What becomes of each byte in each channel, rescaled and normalised.
  std::array<std::array<float, 256>, 3> values() const;
  /// -> [1, 3, H, W] f32, on `device`, whose kernels give the same bits. DataError: no picture.
  /// Thread safe.
  at::Tensor apply(const Image& image, at::Device device = at::kCPU) const;
};

/// DataError: sizes that do not fit the bytes.
void check_image(const Image& image);

/// First row or column of the middle `want` of `have`, rounded down; negative where `want` is more.
int64_t crop_start(int64_t have, int64_t want);

/// The middle height x width of a picture; where it is smaller, black around it.
Image center_crop(const Image& image, int64_t height, int64_t width);

}  // namespace euromodal
