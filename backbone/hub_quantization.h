// hub_quantization.h — folders whose linears others quantised to integers: AWQ (Lin et al. 2023,
// layout of AutoAWQ's "gemm") and GPTQ (Frantar et al. 2022, layout of AutoGPTQ and GPTQModel).
// Codes, scales and zero points become packed weights as they are; what the packed form cannot say
// exactly (inputs in another order, odd groups, scales beyond f16) is dequantised. O outputs, I
// inputs, G groups of inputs.
//
//   AWQ   qweight i32 [I, O/8], qzeros i32 [G, O/8], scales [G, O]; bits 4k of a word are output
//         8c + (0, 2, 4, 6, 1, 3, 5, 7)[k]
//   GPTQ  qweight i32 [I/n, O], n = 32 / bits inputs of a word, lowest bits first; qzeros
//         i32 [G, O/n] (format "gptq": zero - 1), scales [G, O], g_idx i32 [I]: group of each input
//   weight = scale · (code - zero)
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "backbone/weights/safetensors.h"
#include "core/json.h"

namespace euromodal {

struct LlamaConfig;

struct HubQuantization {
  enum class Method { kAwq, kGptq } method = Method::kAwq;
  int64_t bits = 4;        // GPTQ: also 8
  int64_t group = 128;     // inputs that share a scale; -1: all
  bool zeros = true;       // zero points other than the middle
  bool zero_less = false;  // qzeros hold zero - 1
};

/// Of a quantization_config whose quant_method is awq or gptq; else nothing. ConfigError naming
/// file and key: another version, format or number of bits, rules for single modules.
std::optional<HubQuantization> read_hub_quantization(const JsonView& how);
/// Of the config.json of a folder.
std::optional<HubQuantization> hub_quantization_of(const std::filesystem::path& dir);

/// The tensors of a folder with that config: for each quantised linear "NAME.weight.packed" (its
/// form is put into config.packed_linears) or a dequantised "NAME.weight" of `dtype`; all others as
/// they are. CheckpointError naming `what` (the folder) and the tensor: missing, misshapen, of
/// another dtype.
std::vector<NamedTensor> pack_hub_tensors(std::vector<NamedTensor> tensors,
                                          const HubQuantization& how, LlamaConfig& config,
                                          at::ScalarType dtype, const std::string& what);

}  // namespace euromodal
