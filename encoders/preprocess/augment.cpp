// augment.cpp — SpecAugment masks; random crops; brightness and noise.
#include "encoders/preprocess/augment.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/kernels/to_device.h"
#include "core/error.h"

namespace euromodal {
namespace {

// A band of 0 to `width` of `total` positions, at a place drawn uniformly.
struct Band {
  int64_t start, length;
};
Band augment_band(Rng& rng, int64_t width, int64_t total) {
  const int64_t length = rng.below(std::min(width, total) + 1);
  return {rng.below(total - length + 1), length};
}

struct CropBox {
  int64_t top, left, height, width;
};
CropBox augment_box(int64_t height, int64_t width, double smallest, Rng& rng) {
  check<ConfigError>(smallest > 0.0 && smallest <= 1.0,
                     "random_crop: keeps a share of {}, expected above 0 and at most 1", smallest);
  const double edge = std::sqrt(rng.uniform(smallest, 1.0));
  const auto shorter = [&](int64_t whole) {
    return std::clamp<int64_t>(std::llround(edge * static_cast<double>(whole)), 1, whole);
  };
  CropBox box{0, 0, shorter(height), shorter(width)};
  box.top = rng.below(height - box.height + 1);
  box.left = rng.below(width - box.width + 1);
  return box;
}

// Appends the pixels of `box` in a frame of `width` columns.
void augment_cut(const uint8_t* frame, int64_t width, const CropBox& box,
                 std::vector<uint8_t>& out) {
  for (int64_t y = 0; y < box.height; ++y) {
    const uint8_t* row = frame + ((box.top + y) * width + box.left) * 3;
    out.insert(out.end(), row, row + box.width * 3);
  }
}

}  // namespace

Image random_crop(const Image& image, double smallest, Rng rng) {
  const CropBox box = augment_box(image.height, image.width, smallest, rng);
  Image out{box.height, box.width, {}};
  augment_cut(image.rgb.data(), image.width, box, out.rgb);
  return out;
}

Clip random_crop(const Clip& clip, double smallest, Rng rng) {
  const CropBox box = augment_box(clip.height, clip.width, smallest, rng);
  Clip out{clip.frames, box.height, box.width, {}, clip.pts_s};
  for (int64_t f = 0; f < clip.frames; ++f)
    augment_cut(clip.rgb.data() + f * clip.height * clip.width * 3, clip.width, box, out.rgb);
  return out;
}

EncoderInput spec_augment(const EncoderInput& input, const SpecAugment& config, Rng rng,
                          int64_t hop) {
  check<ConfigError>(config.time_masks >= 0 && config.time_width >= 0 && config.freq_masks >= 0 &&
                         config.freq_width >= 0,
                     "spec_augment: counts and widths of masks must not be negative");
  const c10::NoGradGuard no_grad;
  at::Tensor x_WMF = input.x.clone();
  const int64_t mels = x_WMF.size(1), frames = x_WMF.size(2);
  for (int64_t w = 0; w < x_WMF.size(0); ++w) {
    const int64_t begin = w * frames * hop;
    const int64_t valid = std::clamp<int64_t>((input.valid - begin + hop - 1) / hop, 1, frames);
    at::Tensor real_MF = x_WMF.select(0, w).narrow(1, 0, valid);
    const at::Tensor mean = real_MF.mean();
    for (int64_t i = 0; i < config.time_masks; ++i) {
      const Band band = augment_band(rng, config.time_width, valid);
      real_MF.narrow(1, band.start, band.length).copy_(mean);
    }
    for (int64_t i = 0; i < config.freq_masks; ++i) {
      const Band band = augment_band(rng, config.freq_width, mels);
      real_MF.narrow(0, band.start, band.length).copy_(mean);
    }
  }
  return {x_WMF, input.valid};
}

EncoderInput image_augment(const EncoderInput& input, const ImageAugment& config, Rng rng) {
  check<ConfigError>(config.brightness >= 0.0 && config.noise >= 0.0,
                     "image_augment: brightness and noise must not be negative");
  const c10::NoGradGuard no_grad;
  at::Tensor change_FCHW = at::empty(input.x.sizes(), at::kFloat);  // drawn on the host
  float* change = change_FCHW.mutable_data_ptr<float>();
  const auto shift = static_cast<float>(rng.uniform(-config.brightness, config.brightness));
  const auto noise = static_cast<float>(config.noise);
  const int64_t count = change_FCHW.numel();
  for (int64_t i = 0; i < count; ++i) {
    const float grain = noise > 0.0f ? noise * static_cast<float>(rng.normal()) : 0.0f;
    change[i] = shift + grain;
  }
  return {input.x + to_device(change_FCHW, input.x.device()), input.valid};
}

}  // namespace euromodal
