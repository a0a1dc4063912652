// write_folder.h — an encoder as a Hugging Face folder.
#pragma once
#include <filesystem>
#include <vector>

#include "backbone/weights/safetensors.h"
#include "core/json.h"

namespace euromodal {

/// config.json (its dtype set to that of the tensors), preprocessor_config.json, model.safetensors;
/// makes the folder.
void write_encoder_folder(const std::filesystem::path& dir, Json config, const Json& preprocessor,
                          const std::vector<NamedTensor>& tensors);

}  // namespace euromodal
