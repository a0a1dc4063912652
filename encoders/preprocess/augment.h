// augment.h — random changes of training inputs, driven by a passed Rng alone. Inputs are copied,
// never changed in place (they may be cached).
#pragma once
#include <cstdint>

#include "core/rng.h"
#include "encoders/media/media.h"
#include "encoders/preprocess/preprocess.h"

namespace euromodal {

/// Masks over a log-mel spectrogram (SpecAugment, Park et al. 2019): bands of up to `width` frames
/// or bins are set to the spectrogram's mean.
struct SpecAugment {
  int64_t time_masks = 0, time_width = 0;  // frames
  int64_t freq_masks = 0, freq_width = 0;  // mel bins
};

/// x [W, M, F]; masks are drawn per window, over those of its columns that hold sound (`hop`
/// samples each).
EncoderInput spec_augment(const EncoderInput& input, const SpecAugment& config, Rng rng,
                          int64_t hop = 160);

struct ImageAugment {
  double crop = 1.0;        // smallest share of the area that a random crop keeps; 1: no crop
  double brightness = 0.0;  // adds U(-brightness, brightness) to all pixels
  double noise = 0.0;       // adds N(0, noise) to each pixel
};

/// A random part of the picture, of its shape and at least `smallest` (in (0, 1]) of its area; of a
/// clip the same part of every frame. For raw media, before they are preprocessed.
Image random_crop(const Image& image, double smallest, Rng rng);
Clip random_crop(const Clip& clip, double smallest, Rng rng);

/// Brightness and noise. x [F, 3, H, W], in the normalised scale (-1 to 1 for SigLIP).
EncoderInput image_augment(const EncoderInput& input, const ImageAugment& config, Rng rng);

}  // namespace euromodal
