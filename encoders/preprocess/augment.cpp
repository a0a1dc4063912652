// augment.cpp — SpecAugment masks; brightness and noise.
#include "encoders/preprocess/augment.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

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

}  // namespace

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
  at::Tensor x_FCHW = input.x.contiguous().clone();
  float* pixels = x_FCHW.data_ptr<float>();
  const auto shift = static_cast<float>(rng.uniform(-config.brightness, config.brightness));
  const auto noise = static_cast<float>(config.noise);
  const int64_t count = x_FCHW.numel();
  for (int64_t i = 0; i < count; ++i) {
    const float grain = noise > 0.0f ? noise * static_cast<float>(rng.normal()) : 0.0f;
    pixels[i] += shift + grain;
  }
  return {x_FCHW, input.valid};
}

}  // namespace euromodal
