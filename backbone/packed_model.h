// packed_model.h — a text backbone whose linears are packed for inference on the CPU
// (kernels/packed_linear): in memory, or ahead of time in a folder that is mapped as it is. Norms,
// biases and the embedding stay what they are.
#pragma once
#include <filesystem>

#include "backbone/kernels/packed_linear/packed_layout.h"
#include "backbone/llama.h"

namespace euromodal {

/// Merges every LoRA and packs the linears of all blocks and the head, one after the other, so that
/// the plain weights and the packed ones are never there at once. What a packed folder or a GGUF
/// file brought packed stays as it is; Error when its form (packed_form) is not `form`. Error
/// naming the layer for weights that cannot take the form (bf16 needs a bf16 model) or are not on
/// the CPU.
void pack_weights(const Llama& llama, const PackedForm& form);
/// The same of those that are not packed yet, whatever the others are.
void pack_plain_weights(const Llama& llama, const PackedForm& form);

/// Those of all blocks and the head, also a tied one.
std::vector<Linear> all_linears(const Llama& llama);

/// The form of the first of its linears that is packed, or nothing.
std::optional<PackedForm> packed_form(const Llama& llama);

/// Bytes of all linears as a decoding step reads them.
int64_t linear_bytes(const Llama& llama);

/// Writes the packed model as a folder: `source`'s config.json with a quantization_config, its
/// other small files (tokenizer, template, generation config), and safetensors with
/// "NAME.weight.packed" (U8) for every linear. Of a GGUF file: the same files as it says.
/// Complete or absent.
void save_packed_model(const std::filesystem::path& source, const std::filesystem::path& out,
                       const TextModel& model);

}  // namespace euromodal
