// resize.h — resampling of 8-bit pictures, equal to Pillow's Image.resize to the last bit. The
// frozen vision towers were trained on such pictures; other kernels move their features by
// percents.
#pragma once
#include <cstdint>

#include "encoders/media/media.h"

namespace euromodal {

/// Numbers as in Pillow and in `resample` of preprocessor_config.json.
enum class Resample {
  kNearest = 0,
  kLanczos = 1,
  kBilinear = 2,
  kBicubic = 3,
  kBox = 4,
  kHamming = 5
};

/// image [H, W, 3] -> [height, width, 3]. Antialiased (the filter widens when shrinking): columns
/// first, rounded to 8 bits, then rows, rounded again (rows first when that saves much work, as
/// Pillow does since version 13).
Image resize(const Image& image, int64_t height, int64_t width, Resample filter);

}  // namespace euromodal
