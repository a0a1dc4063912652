// resize.h — resampling of 8-bit pictures, equal to Pillow's Image.resize to the last bit. The
// frozen vision towers were trained on such pictures; other kernels move their features by
// percents.
#pragma once
#include <cstdint>
#include <vector>

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

/// One axis of a resize in fixed point: output position o is the sum over k of weight[k][o] ·
/// input[first[o] + k], rounded, weights with 22 fraction bits; what the GPU's kernel takes
/// (backbone/kernels/image_transform).
struct ResizeAxis {
  std::vector<int32_t> first_O, weight_KO;
  int64_t taps = 0;  // K
};
ResizeAxis resize_axis(int64_t from, int64_t to, Resample filter);

/// Does resize() start with the rows?
bool resize_starts_with_rows(int64_t height, int64_t width, int64_t to_height, int64_t to_width,
                             Resample filter);

}  // namespace euromodal
