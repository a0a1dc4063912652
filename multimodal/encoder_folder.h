// encoder_folder.h — an encoder and the LoRA on its linears as one folder: the Hugging Face folder
// of the base weights, and beside them a PEFT folder `lora_encoder/` where LoRA was trained. (In a
// coupled model's folder the PEFT folders stand beside those of the encoders, multimodal/model.h.)
#pragma once
#include <filesystem>
#include <memory>
#include <optional>

#include "encoders/encoder.h"

namespace euromodal {

inline constexpr const char* kEncoderLora = "lora_encoder";

/// load_encoder(), with the folder's LoRA put on.
std::unique_ptr<Encoder> load_encoder_folder(const std::filesystem::path& dir,
                                             at::ScalarType dtype = at::kFloat);

/// Encoder::save(), and `lora_encoder/` where the encoder has a LoRA; with `merge` instead
/// W + scale · B A as its weights. The encoder stays as it is.
void save_encoder_folder(const std::filesystem::path& dir, const Encoder& encoder, bool merge);

}  // namespace euromodal
