// media_augment.h — random changes of training media as a run's YAML asks for them; drawn from the
// sample's own Rng, so that ranks, workers and restarts change nothing.
#pragma once
#include <optional>

#include "core/config.h"
#include "encoders/preprocess/augment.h"
#include "training/objectives/media_inputs.h"

namespace euromodal {

/// `{crop: 0.8, brightness: 0.1, noise: 0.05}`: for pictures and clips.
ImageAugment parse_image_augment(const Config& config);
/// `{time_masks: 2, time_width: 20, freq_masks: 2, freq_width: 10}`: for sound.
SpecAugment parse_spec_augment(const Config& config);

/// The input of a picture or clip, changed. A crop decodes the medium anew; brightness and noise
/// alone start from what `inputs` keeps.
EncoderInput augmented_input(const Encoder& encoder, const MediaRef& ref, const MediaSource& source,
                             MediaInputs& inputs, const ImageAugment& augment, const Rng& rng);

/// By kind of medium: `augment: {image: {...}, audio: {...}, video: {...}}`.
struct MediaAugment {
  std::optional<ImageAugment> image, video;
  std::optional<SpecAugment> audio;

  /// Nothing without the key; ConfigError for values out of range.
  static MediaAugment parse(const Config& config);
  bool changes(Modality kind) const;
  /// The changed input of a medium of a kind that `changes`. Never the cached one itself.
  EncoderInput input(const Encoder& encoder, const MediaRef& ref, const MediaSource& source,
                     MediaInputs& inputs, const Rng& rng) const;
};

}  // namespace euromodal
