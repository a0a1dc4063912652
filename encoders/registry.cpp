// registry.cpp — the encoders: one line each.
#include "encoders/registry.h"

namespace euromodal {

std::unique_ptr<Encoder> make_whisper(const EncoderFiles& files, Weights weights);
std::unique_ptr<Encoder> make_siglip(const EncoderFiles& files, Weights weights);
std::unique_ptr<Encoder> make_clip(const EncoderFiles& files, Weights weights);

const std::vector<EncoderEntry>& encoder_registry() {
  static const std::vector<EncoderEntry> registry = {
      {"whisper", Modality::kAudio, &make_whisper},
      {"siglip", Modality::kImage, &make_siglip},
      {"siglip_vision_model", Modality::kImage, &make_siglip},
      {"clip", Modality::kImage, &make_clip},
      {"clip_vision_model", Modality::kImage, &make_clip},
  };
  return registry;
}

}  // namespace euromodal
