// encoder_folder.cpp — see encoder_folder.h.
#include "multimodal/encoder_folder.h"

#include "backbone/lora.h"
#include "backbone/peft_folder.h"

namespace euromodal {

std::unique_ptr<Encoder> load_encoder_folder(const std::filesystem::path& dir,
                                             at::ScalarType dtype) {
  std::unique_ptr<Encoder> out = load_encoder(dir, dtype);
  if (std::filesystem::exists(dir / kEncoderLora)) load_peft(dir / kEncoderLora, out->linears());
  return out;
}

void save_encoder_folder(const std::filesystem::path& dir, const Encoder& encoder, bool merge) {
  const std::vector<Linear> linears = encoder.linears();
  std::optional<MergedWeights> merged;
  if (merge) merged.emplace(linears);
  encoder.save(dir);
  if (!merge && has_lora(linears)) save_peft(dir / kEncoderLora, linears, PeftTask::kEncoder);
}

}  // namespace euromodal
