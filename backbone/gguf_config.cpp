// gguf_config.cpp — the config of a GGUF file of architecture llama. Keys:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and llama.cpp's llama-model.cpp for
// what they mean when they are missing.
#include <algorithm>
#include <cmath>

#include <ATen/core/Tensor.h>
#include <fmt/ranges.h>

#include "backbone/gguf_model.h"
#include "core/error.h"

namespace euromodal {
namespace {

constexpr const char* kFrequencies = "rope_freqs.weight";

int64_t gguf_positive(const GgufHeader& header, const std::string& key) {
  const int64_t value = header.size(key);
  check<ConfigError>(value > 0, "{}: key {} is 0, expected a number above 0", header.file, key);
  return value;
}

/// A number that must be above 0.
double gguf_real(const GgufHeader& header, const std::string& key, double otherwise) {
  const double value = header.f64(key, otherwise);
  check<ConfigError>(std::isfinite(value) && value > 0.0,
                     "{}: key {} is {}, expected a number above 0", header.file, key, value);
  return value;
}

void read_yarn(const GgufHeader& header, RopeConfig& rope) {
  const std::string key = "llama.rope.scaling.";
  rope.beta_fast = gguf_real(header, key + "yarn_beta_fast", rope.beta_fast);
  rope.beta_slow = gguf_real(header, key + "yarn_beta_slow", rope.beta_slow);
  const double times = gguf_real(header, key + "attn_factor", 1.0) *
                       gguf_real(header, key + "yarn_attn_factor", 1.0);
  if (times != 1.0) rope.attention_factor = times * (1.0 + 0.1 * std::log(rope.factor));
  check<ConfigError>(header.f64(key + "yarn_ext_factor", 1.0) == 1.0 &&
                         header.f64(key + "yarn_log_multiplier", 0.0) == 0.0,
                     "{}: keys {}yarn_ext_factor and {}yarn_log_multiplier other than 1 and 0 are "
                     "not read here",
                     header.file, key, key);
}

RopeConfig gguf_rope(const GgufFile& file, const LlamaConfig& config) {
  const GgufHeader& header = file.header();
  RopeConfig rope;
  rope.head_dim = config.head_dim;
  rope.max_positions = rope.original_max_positions = config.max_positions;
  const int64_t rotated = header.size("llama.rope.dimension_count", config.head_dim);
  check<ConfigError>(rotated == config.head_dim,
                     "{}: key llama.rope.dimension_count is {}, expected the head width {} "
                     "(a Llama-type model rotates whole heads)",
                     header.file, rotated, config.head_dim);
  rope.theta = gguf_real(header, "llama.rope.freq_base", 10000.0);
  const std::string type = header.str("llama.rope.scaling.type", "linear");
  check<ConfigError>(type == "none" || type == "linear" || type == "yarn",
                     "{}: key llama.rope.scaling.type is '{}'; known are none, linear, yarn",
                     header.file, type);
  rope.factor = header.f64("llama.rope.scaling.factor", header.f64("llama.rope.scale_linear", 1.0));
  if (rope.factor == 0.0 || type == "none") rope.factor = 1.0;  // 0: not said
  check<ConfigError>(rope.factor >= 1.0 && std::isfinite(rope.factor),
                     "{}: key llama.rope.scaling.factor is {}, expected 1 or more", header.file,
                     rope.factor);
  if (type == "yarn") {
    rope.type = "yarn";
    rope.original_max_positions =
        header.size("llama.rope.scaling.original_context_length", config.max_positions);
    check<ConfigError>(rope.original_max_positions > 0,
                       "{}: key llama.rope.scaling.original_context_length is 0", header.file);
    read_yarn(header, rope);
  } else if (rope.factor != 1.0) {
    rope.type = "linear";
  }
  const GgufTensor* frequencies = file.find(kFrequencies);
  if (frequencies == nullptr) return rope;
  check<ConfigError>(rope.type == "default", "{}: tensor {} beside scaling {} is not read here",
                     header.file, kFrequencies, rope.type);
  check<CheckpointError>(frequencies->type == GgmlType::kF32 &&
                             frequencies->shape == std::vector<int64_t>{config.head_dim / 2},
                         "{}: tensor {} has shape [{}], expected F32 [{}]", header.file,
                         kFrequencies, fmt::join(frequencies->shape, ", "), config.head_dim / 2);
  const at::Tensor values = file.tensor(*frequencies, at::kFloat);
  rope.type = "longrope";
  for (int64_t i = 0; i < values.numel(); ++i) {
    rope.divisors.push_back(values.const_data_ptr<float>()[i]);
    check<CheckpointError>(std::isfinite(rope.divisors.back()) && rope.divisors.back() > 0.0,
                           "{}: tensor {} holds {}, expected numbers above 0", header.file,
                           kFrequencies, rope.divisors.back());
  }
  return rope;
}

/// float32 or float16 for files that hold nothing else.
std::string gguf_dtype_word(const GgufHeader& header) {
  bool half = false;
  for (const GgufTensor& tensor : header.tensors) {
    if (tensor.type == GgmlType::kF16)
      half = true;
    else if (tensor.type != GgmlType::kF32)
      return "bfloat16";
  }
  return half ? "float16" : "float32";
}

}  // namespace

std::vector<int64_t> gguf_rows(int64_t heads, int64_t head_dim) {
  std::vector<int64_t> out;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t s = 0; s < 2; ++s)
      for (int64_t i = 0; i < head_dim / 2; ++i) out.push_back(h * head_dim + 2 * i + s);
  }
  return out;
}

std::vector<GgufLinear> gguf_linears(const LlamaConfig& c) {
  const int64_t D = c.hidden_size, F = c.intermediate_size, Q = c.num_heads * c.head_dim,
                KV = c.num_kv_heads * c.head_dim;
  std::vector<GgufLinear> out;
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string from = fmt::format("blk.{}.", i), to = fmt::format("model.layers.{}.", i);
    const auto add = [&](const char* stored, const char* module, int64_t outputs, int64_t inputs,
                         int64_t heads, bool bias) {
      out.push_back({from + stored, to + module, outputs, inputs, heads, bias});
    };
    add("attn_q", "self_attn.q_proj", Q, D, c.num_heads, c.attention_bias);
    add("attn_k", "self_attn.k_proj", KV, D, c.num_kv_heads, c.attention_bias);
    add("attn_v", "self_attn.v_proj", KV, D, 0, c.attention_bias);
    add("attn_output", "self_attn.o_proj", D, Q, 0, c.attention_bias);
    add("ffn_gate", "mlp.gate_proj", F, D, 0, c.mlp_bias);
    add("ffn_up", "mlp.up_proj", F, D, 0, c.mlp_bias);
    add("ffn_down", "mlp.down_proj", D, F, 0, c.mlp_bias);
  }
  out.push_back({c.tie_embeddings ? "token_embd" : "output", kHeadName, c.vocab_size, D, 0, false});
  return out;
}

LlamaConfig gguf_config(const GgufFile& file) {
  const GgufHeader& header = file.header();
  const std::string architecture = header.str("general.architecture", "");
  check<ConfigError>(architecture == "llama",
                     "{}: general.architecture is '{}'; GGUF models of architecture llama (every "
                     "EuroLLM) are read here",
                     header.file, architecture);
  const int64_t experts = header.size("llama.expert_count", 0);
  check<ConfigError>(experts == 0, "{}: llama.expert_count is {}; mixtures of experts are not read",
                     header.file, experts);
  LlamaConfig c;
  c.hidden_size = gguf_positive(header, "llama.embedding_length");
  c.intermediate_size = gguf_positive(header, "llama.feed_forward_length");
  c.num_layers = gguf_positive(header, "llama.block_count");
  c.num_heads = gguf_positive(header, "llama.attention.head_count");
  c.num_kv_heads = header.has("llama.attention.head_count_kv")
                       ? gguf_positive(header, "llama.attention.head_count_kv")
                       : c.num_heads;
  c.max_positions = gguf_positive(header, "llama.context_length");
  check<ConfigError>(c.num_layers <= 100'000 && c.num_heads <= (int64_t{1} << 20),
                     "{}: {} layers of {} heads, which no model has", header.file, c.num_layers,
                     c.num_heads);
  check<ConfigError>(c.num_heads % c.num_kv_heads == 0,
                     "{}: llama.attention.head_count {} is no multiple of head_count_kv {}",
                     header.file, c.num_heads, c.num_kv_heads);
  if (header.has("llama.attention.key_length")) {
    c.head_dim = gguf_positive(header, "llama.attention.key_length");
  } else {
    check<ConfigError>(c.hidden_size % c.num_heads == 0,
                       "{}: llama.embedding_length {} is no multiple of head_count {} and there is "
                       "no llama.attention.key_length",
                       header.file, c.hidden_size, c.num_heads);
    c.head_dim = c.hidden_size / c.num_heads;
  }
  const int64_t values = header.size("llama.attention.value_length", c.head_dim);
  check<ConfigError>(
      c.head_dim % 2 == 0 && c.head_dim <= (int64_t{1} << 20) && values == c.head_dim,
      "{}: heads of width {} (key_length) and {} (value_length), expected one even "
      "number",
      header.file, c.head_dim, values);
  c.rms_norm_eps = header.f64("llama.attention.layer_norm_rms_epsilon");
  check<ConfigError>(c.rms_norm_eps > 0.0,
                     "{}: llama.attention.layer_norm_rms_epsilon is {}, expected a number above 0",
                     header.file, c.rms_norm_eps);
  const GgufTensor* embedding = file.find("token_embd.weight");
  check<CheckpointError>(embedding != nullptr && embedding->shape.size() == 2,
                         "{}: tensor token_embd.weight is missing or no matrix{}", header.file,
                         header.tensors.empty() ? " (the file holds a vocabulary alone)" : "");
  c.vocab_size = embedding->shape[0];
  const int64_t vocab = header.size("llama.vocab_size", c.vocab_size);
  check<ConfigError>(vocab == c.vocab_size,
                     "{}: llama.vocab_size is {}, but token_embd.weight has {} rows", header.file,
                     vocab, c.vocab_size);
  c.tie_embeddings = file.find("output.weight") == nullptr;
  c.attention_bias = file.find("blk.0.attn_q.bias") != nullptr;
  c.mlp_bias = file.find("blk.0.ffn_gate.bias") != nullptr;
  c.rope = gguf_rope(file, c);
  c.bos_id = header.size("tokenizer.ggml.bos_token_id", -1);
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (!header.has(key)) continue;
    const int64_t id = header.size(key);
    if (std::find(c.eos_ids.begin(), c.eos_ids.end(), id) == c.eos_ids.end())
      c.eos_ids.push_back(id);
  }
  c.dtype = gguf_dtype_word(header);
  for (const GgufLinear& linear : gguf_linears(c)) {
    const GgufTensor* tensor = file.find(linear.stored + ".weight");
    if (tensor != nullptr && ggml_has_codes(tensor->type))
      c.packed_linears[linear.module] = {
          tensor->type == GgmlType::kQ8_0 ? WeightForm::kInt8 : WeightForm::kInt4, 32, false};
  }
  return c;
}

}  // namespace euromodal
