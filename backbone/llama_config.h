// llama_config.h — config.json of a Llama-type text model (every EuroLLM generation), old and new
// style of RoPE, or what a GGUF file says instead. Nothing in it is a constant in code.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "backbone/kernels/packed_linear/packed_layout.h"
#include "backbone/kernels/rope/rope.h"
#include "core/json.h"

namespace euromodal {

/// quant_method of folders whose linears are packed (packed_model.h).
inline constexpr const char* kPackedMethod = "euromodal";
/// The output matrix as a module.
inline constexpr const char* kHeadName = "lm_head";

struct LlamaConfig {
  int64_t vocab_size = 0;         // V
  int64_t hidden_size = 0;        // D
  int64_t intermediate_size = 0;  // F
  int64_t num_layers = 0;
  int64_t num_heads = 0;     // H
  int64_t num_kv_heads = 0;  // K
  int64_t head_dim = 0;      // N
  int64_t max_positions = 0;
  double rms_norm_eps = 0.0;
  bool tie_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  RopeConfig rope;
  std::vector<int64_t> eos_ids;  // generation_config.json, else config.json; empty: none
  int64_t bos_id = -1;           // -1: none
  std::string dtype;             // "float32", "bfloat16", ... as the file says; empty: not said

  /// The linears of the blocks are stored packed in this form (quantization_config).
  std::optional<PackedForm> packed;
  /// Linears (by module name, also "lm_head") that are stored packed in a form of their own.
  std::map<std::string, PackedForm> packed_linears;
  /// The form in which a linear is stored; nothing: as a plain matrix.
  std::optional<PackedForm> form_of(const std::string& linear) const;

  /// Reads config.json (and generation_config.json beside it), or a GGUF file (find_gguf).
  /// ConfigError naming file and key:
  /// other model_type, missing or non-positive sizes, heads that do not divide, unknown rope_type,
  /// hidden_act other than silu.
  static LlamaConfig load(const std::filesystem::path& dir);
  static LlamaConfig from_json(const JsonView& json);
  Json to_json() const;  // what transformers (4 and 5) and llama.cpp read
  /// Exact number of parameters, computed without weights.
  int64_t num_parameters() const;
};

/// The quantization_config of a folder whose linears are packed: `form`, and those of `linears` in
/// forms of their own.
Json packed_config(const PackedForm& form, const std::map<std::string, PackedForm>& linears);

}  // namespace euromodal
