// peft_folder.h — LoRA as Hugging Face PEFT stores it: adapter_config.json and
// adapter_model.safetensors with "base_model.model.NAME.lora_A.weight" [R, I] and
// "....lora_B.weight" [O, R]. Reference: peft 0.21 (LoraConfig, save_pretrained,
// PeftModel.from_pretrained).
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "backbone/nn/linear.h"

namespace euromodal {

/// Puts the LoRA of `dir` on `linears`: rank from the tensors, alpha from lora_alpha and
/// alpha_pattern, rsLoRA, dropout (or `dropout`). Modules are found by their name, or by its end
/// where a wrapping class puts more in front. ConfigError or CheckpointError naming file, key or
/// tensor: what is no LoRA (another peft_type), or is more than one (DoRA, modules_to_save, biases,
/// base weights changed by its initialisation), is in no linear of this model, or does not fit.
void load_peft(const std::filesystem::path& dir, const std::vector<Linear>& linears,
               std::optional<double> dropout = std::nullopt);

enum class PeftTask {
  kCausalLm,  // task_type CAUSAL_LM; names in target_modules as short as they can be
  kEncoder    // FEATURE_EXTRACTION; whole names, for the tower may stand beside another in a model
};
/// Writes the LoRA of `linears`, all linears of a model, into `dir`.
void save_peft(const std::filesystem::path& dir, const std::vector<Linear>& linears, PeftTask task);

bool is_peft_folder(const std::filesystem::path& dir);  // has adapter_config.json

}  // namespace euromodal
