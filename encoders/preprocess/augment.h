// augment.h — random changes of training inputs, driven by a passed Rng alone. Inputs are copied,
// never changed in place (they may be cached).
#pragma once
#include <cstdint>

#include "core/rng.h"
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
  double brightness = 0.0;  // adds U(-brightness, brightness) to all pixels
  double noise = 0.0;       // adds N(0, noise) to each pixel
};

/// x [F, 3, H, W], in the normalised scale (-1 to 1 for SigLIP).
EncoderInput image_augment(const EncoderInput& input, const ImageAugment& config, Rng rng);

}  // namespace euromodal
