// gguf_model.h — a text model from a GGUF file of architecture llama: its config, and its weights
// under the names of Hugging Face. Q8_0 and Q4_0 matrices become packed weights (int8-g32,
// int4-g32) with the codes and scales of the file; K-quants and the embedding are dequantised.
#pragma once
#include <filesystem>
#include <optional>

#include "backbone/llama.h"
#include "backbone/weights/gguf.h"

namespace euromodal {

/// What config.json would say. ConfigError naming file and key: another architecture, experts,
/// unknown RoPE scaling, partial rotation, a file in several parts; CheckpointError: missing keys.
LlamaConfig gguf_config(const GgufFile& file);

/// Every tensor of the file is used, with exactly the shape that the config asks for, else
/// CheckpointError. `dtype` undefined: float32 or float16 for files that hold nothing else, else
/// bfloat16.
TextModel load_gguf_model(const std::filesystem::path& file, std::optional<at::ScalarType> dtype);

/// One linear of the model as a GGUF file and as Hugging Face name it.
struct GgufLinear {
  std::string stored, module;  // "blk.0.attn_q", "model.layers.0.self_attn.q_proj"
  int64_t outputs = 0, inputs = 0;
  int64_t heads = 0;  // above 0: rows of each head stand pairwise (gguf_rows)
  bool bias = false;
};
/// Those of all blocks in order, then the head; of a tied model stored as "token_embd".
std::vector<GgufLinear> gguf_linears(const LlamaConfig& config);

/// llama.cpp rotates neighbours, Hugging Face the halves of a head: row h·N + s·N/2 + i there is
/// row h·N + 2i + s of the file.
std::vector<int64_t> gguf_rows(int64_t heads, int64_t head_dim);

}  // namespace euromodal
