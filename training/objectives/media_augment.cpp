// media_augment.cpp — see media_augment.h.
#include "training/objectives/media_augment.h"

#include "training/data/read_media.h"

namespace euromodal {

namespace {

int64_t augment_whole(const Config& config, const std::string& key) {
  const int64_t value = config.i64(key, 0);
  check<ConfigError>(value >= 0, "{}: expected a number of at least 0, got {}", config.where(key),
                     value);
  return value;
}

double augment_amount(const Config& config, const std::string& key) {
  const double value = config.f64(key, 0.0);
  check<ConfigError>(value >= 0.0, "{}: expected a number of at least 0, got {}", config.where(key),
                     value);
  return value;
}

}  // namespace

ImageAugment parse_image_augment(const Config& config) {
  const ImageAugment out{.crop = config.f64("crop", 1.0),
                         .brightness = augment_amount(config, "brightness"),
                         .noise = augment_amount(config, "noise")};
  check<ConfigError>(out.crop > 0.0 && out.crop <= 1.0,
                     "{}: expected a share of the area in (0, 1], got {}", config.where("crop"),
                     out.crop);
  return out;
}

SpecAugment parse_spec_augment(const Config& config) {
  return {augment_whole(config, "time_masks"), augment_whole(config, "time_width"),
          augment_whole(config, "freq_masks"), augment_whole(config, "freq_width")};
}

EncoderInput augmented_input(const Encoder& encoder, const MediaRef& ref, const MediaSource& source,
                             MediaInputs& inputs, const ImageAugment& augment, const Rng& rng) {
  EncoderInput input;
  if (augment.crop < 1.0) {
    RawMedia raw = read_media(encoder, ref, source);
    const Rng crop = rng.fork("random_crop");
    if (Image* image = std::get_if<Image>(&raw)) {
      *image = random_crop(*image, augment.crop, crop);
    } else if (Clip* clip = std::get_if<Clip>(&raw)) {
      *clip = random_crop(*clip, augment.crop, crop);
    }
    input = inputs.preprocess(encoder, raw);
  } else {
    input = inputs.get(encoder, ref, source);
  }
  if (augment.brightness == 0.0 && augment.noise == 0.0) return input;
  return image_augment(input, augment, rng.fork("image_augment"));
}

MediaAugment MediaAugment::parse(const Config& config) {
  MediaAugment out;
  if (!config.has("augment")) return out;
  const Config augment = config.child("augment");
  if (augment.has("image")) out.image = parse_image_augment(augment.child("image"));
  if (augment.has("video")) out.video = parse_image_augment(augment.child("video"));
  if (augment.has("audio")) out.audio = parse_spec_augment(augment.child("audio"));
  return out;
}

bool MediaAugment::changes(Modality kind) const {
  if (kind == Modality::kAudio) return audio.has_value();
  return kind == Modality::kImage ? image.has_value() : video.has_value();
}

EncoderInput MediaAugment::input(const Encoder& encoder, const MediaRef& ref,
                                 const MediaSource& source, MediaInputs& inputs,
                                 const Rng& rng) const {
  if (ref.kind == Modality::kAudio)
    return spec_augment(inputs.get(encoder, ref, source), *audio, rng.fork("spec_augment"));
  return augmented_input(encoder, ref, source, inputs,
                         ref.kind == Modality::kImage ? *image : *video, rng);
}

}  // namespace euromodal
