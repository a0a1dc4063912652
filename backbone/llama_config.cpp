// llama_config.cpp — see llama_config.h. Two styles of RoPE in one reader: `rope_theta` +
// `rope_scaling` (transformers 4) and `rope_parameters` (5).
#include "backbone/llama_config.h"

#include <cmath>

#include "backbone/gguf_model.h"
#include "backbone/hub_quantization.h"
#include "backbone/kernels/packed_linear/packed_weight.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

// longrope as GGUF files of Llama 3 have it: one list of factors for any length, nothing else.
std::vector<double> llama_divisors(const JsonView& scaling, int64_t count) {
  const auto list = [&](const char* key) {
    const Json& raw = scaling.raw();
    check<ConfigError>(
        raw.contains(key) && raw[key].is_array() && static_cast<int64_t>(raw[key].size()) == count,
        "{}: {} is missing or no list of {} numbers", scaling.what(), key, count);
    std::vector<double> out;
    for (const Json& value : raw[key]) {
      check<ConfigError>(
          value.is_number() && value.get<double>() > 0.0 && std::isfinite(value.get<double>()),
          "{}: {} holds {}, expected numbers above 0", scaling.what(), key, value.dump());
      out.push_back(value.get<double>());
    }
    return out;
  };
  const std::vector<double> divisors = list("short_factor");
  check<ConfigError>(divisors == list("long_factor") && scaling.f64("attention_factor") == 1.0,
                     "{}: of longrope only equal short_factor and long_factor with "
                     "attention_factor 1 can be read",
                     scaling.what());
  return divisors;
}

// Keys that every scaling knows how to read; what a scaling needs and the file lacks is an error.
RopeConfig llama_rope(const JsonView& json, const LlamaConfig& config) {
  RopeConfig rope;
  rope.head_dim = config.head_dim;
  rope.max_positions = config.max_positions;
  rope.theta = json.f64("rope_theta", 10000.0);
  rope.original_max_positions = json.i64("original_max_position_embeddings", config.max_positions);
  const char* key = json.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (json.has(key)) {
    const JsonView scaling = json.object(key);
    rope.type = scaling.str("rope_type", scaling.str("type", "default"));
    rope.theta = scaling.f64("rope_theta", rope.theta);
    rope.original_max_positions =
        scaling.i64("original_max_position_embeddings", rope.original_max_positions);
    const bool scaled = rope.type != "default" && rope.type != "longrope";
    check<ConfigError>(rope.type == "default" || rope.type == "linear" || rope.type == "dynamic" ||
                           rope.type == "llama3" || rope.type == "yarn" || rope.type == "longrope",
                       "{}: rope_type is '{}'; known are default, linear, dynamic, llama3, yarn, "
                       "longrope",
                       scaling.what(), rope.type);
    check<ConfigError>(scaling.f64("partial_rotary_factor", 1.0) == 1.0,
                       "{}: partial_rotary_factor other than 1 is not what a Llama-type model has",
                       scaling.what());
    if (scaled) rope.factor = scaling.f64("factor");
    if (rope.type == "llama3") {
      rope.low_freq_factor = scaling.f64("low_freq_factor");
      rope.high_freq_factor = scaling.f64("high_freq_factor");
      rope.original_max_positions = scaling.positive("original_max_position_embeddings");
      check<ConfigError>(rope.high_freq_factor > rope.low_freq_factor,
                         "{}: high_freq_factor {} must be above low_freq_factor {}", scaling.what(),
                         rope.high_freq_factor, rope.low_freq_factor);
    }
    if (rope.type == "longrope") rope.divisors = llama_divisors(scaling, config.head_dim / 2);
    if (rope.type == "yarn") {
      rope.beta_fast = scaling.f64("beta_fast", rope.beta_fast);
      rope.beta_slow = scaling.f64("beta_slow", rope.beta_slow);
      rope.attention_factor = scaling.f64("attention_factor", rope.attention_factor);
      rope.mscale = scaling.f64("mscale", rope.mscale);
      rope.mscale_all_dim = scaling.f64("mscale_all_dim", rope.mscale_all_dim);
      rope.truncate = scaling.boolean("truncate", rope.truncate);
    }
    check<ConfigError>(rope.factor >= 1.0 && std::isfinite(rope.factor),
                       "{}: factor is {}, expected 1 or more", scaling.what(), rope.factor);
  }
  check<ConfigError>(rope.theta > 0.0 && std::isfinite(rope.theta),
                     "{}: rope_theta is {}, expected a number above 0", json.what(), rope.theta);
  check<ConfigError>(rope.original_max_positions > 0,
                     "{}: original_max_position_embeddings is {}, expected a number above 0",
                     json.what(), rope.original_max_positions);
  return rope;
}

// A number, a list of numbers, or nothing.
std::vector<int64_t> llama_ids(const JsonView& json, const char* key) {
  std::vector<int64_t> out;
  if (!json.has(key)) return out;
  const Json& value = json.raw().at(key);
  const auto add = [&](const Json& id) {
    check<ConfigError>(
        id.is_number_integer() && !(id.is_number_unsigned() && id.get<uint64_t>() > INT32_MAX) &&
            id.get<int64_t>() >= 0,
        "{}: {} is {}, expected a token id or a list of them", json.what(), key, value.dump());
    out.push_back(id.get<int64_t>());
  };
  if (value.is_array()) {
    for (const Json& id : value) add(id);
  } else {
    add(value);
  }
  return out;
}

// How packed_model.h stores weights.
void read_packed(const JsonView& json, LlamaConfig& config) {
  if (!json.has("quantization_config")) return;
  const JsonView how = json.object("quantization_config");
  if (read_hub_quantization(how)) return;  // how it is loaded: load_text_model
  const std::string method = how.str("quant_method", "");
  check<ConfigError>(
      method == kPackedMethod,
      "{}: quant_method \"{}\" cannot be read, only \"{}\" (euromodal quantize), \"awq\" and "
      "\"gptq\"; take the model's folder without quantisation",
      how.what(), method, kPackedMethod);
  try {
    config.packed = parse_packed_form(how.str("weights", ""));
    if (!how.has("linears")) return;
    const JsonView linears = how.object("linears");
    for (const auto& [name, word] : linears.raw().items())
      config.packed_linears[name] = parse_packed_form(linears.str(name));
  } catch (const Error& error) {
    throw ConfigError("{}: {}", how.what(), error.what());
  }
}

}  // namespace

Json packed_config(const PackedForm& form, const std::map<std::string, PackedForm>& linears) {
  Json out = {{"quant_method", kPackedMethod}, {"weights", packed_form_name(form)}};
  for (const auto& [name, own] : linears) out["linears"][name] = packed_form_name(own);
  return out;
}

namespace {

// Sizes are below 2^40 each, but their products may overflow.
int64_t llama_product(std::initializer_list<int64_t> factors) {
  int64_t out = 1;
  for (int64_t factor : factors)
    check<ConfigError>(!__builtin_mul_overflow(out, factor, &out),
                       "config.json: the sizes multiply to more than 2^63 parameters");
  return out;
}

}  // namespace

LlamaConfig LlamaConfig::from_json(const JsonView& json) {
  check<ConfigError>(json.raw().is_object(), "{}: expected a JSON object", json.what());
  const std::string type = json.str("model_type", "");
  check<ConfigError>(
      type == "llama",
      "{}: model_type is '{}'; text models of type llama (every EuroLLM) are known here",
      json.what(), type);
  LlamaConfig c;
  c.vocab_size = json.positive("vocab_size");
  c.hidden_size = json.positive("hidden_size");
  c.intermediate_size = json.positive("intermediate_size");
  c.num_layers = json.positive("num_hidden_layers");
  c.num_heads = json.positive("num_attention_heads");
  c.num_kv_heads =
      json.has("num_key_value_heads") ? json.positive("num_key_value_heads") : c.num_heads;
  c.max_positions = json.positive("max_position_embeddings");
  check<ConfigError>(c.num_layers <= 100'000, "{}: num_hidden_layers is {}, which no model has",
                     json.what(), c.num_layers);
  check<ConfigError>(c.num_heads % c.num_kv_heads == 0,
                     "{}: num_attention_heads {} is no multiple of num_key_value_heads {}",
                     json.what(), c.num_heads, c.num_kv_heads);
  if (json.has("head_dim")) {
    c.head_dim = json.positive("head_dim");
  } else {
    check<ConfigError>(
        c.hidden_size % c.num_heads == 0,
        "{}: hidden_size {} is no multiple of num_attention_heads {} and there is no head_dim",
        json.what(), c.hidden_size, c.num_heads);
    c.head_dim = c.hidden_size / c.num_heads;
  }
  check<ConfigError>(c.head_dim % 2 == 0, "{}: head_dim {} is odd; rotary positions need pairs",
                     json.what(), c.head_dim);
  c.rms_norm_eps = json.f64("rms_norm_eps", 1e-6);
  check<ConfigError>(c.rms_norm_eps > 0.0, "{}: rms_norm_eps is {}, expected a number above 0",
                     json.what(), c.rms_norm_eps);
  c.tie_embeddings = json.boolean("tie_word_embeddings", false);
  c.attention_bias = json.boolean("attention_bias", false);
  c.mlp_bias = json.boolean("mlp_bias", false);
  const std::string act = json.str("hidden_act", "silu");
  check<ConfigError>(act == "silu", "{}: hidden_act is '{}'; a Llama-type model has silu",
                     json.what(), act);
  c.rope = llama_rope(json, c);
  c.eos_ids = llama_ids(json, "eos_token_id");
  const auto bos = llama_ids(json, "bos_token_id");
  c.bos_id = bos.empty() ? -1 : bos.front();
  c.dtype = json.str("dtype", json.str("torch_dtype", ""));
  read_packed(json, c);
  return c;
}

std::optional<PackedForm> LlamaConfig::form_of(const std::string& linear) const {
  const auto own = packed_linears.find(linear);
  if (own != packed_linears.end()) return own->second;
  return packed && linear == kHeadName ? head_form(*packed) : packed;
}

LlamaConfig LlamaConfig::load(const fs::path& dir) {
  std::error_code ignored;
  if (const auto gguf = find_gguf(dir)) return gguf_config(GgufFile(*gguf));
  check<ConfigError>(fs::is_directory(dir, ignored), "{}: there is no such model folder",
                     dir.string());
  const fs::path file = dir / "config.json";
  check<ConfigError>(fs::exists(file, ignored),
                     "{}: is no model folder: it holds no config.json (and not exactly one .gguf)",
                     dir.string());
  const Json json = read_json(file);
  LlamaConfig c = from_json(JsonView(json, file.string()));
  if (const fs::path generation = dir / "generation_config.json"; fs::exists(generation, ignored)) {
    const Json more = read_json(generation);
    check<ConfigError>(more.is_object(), "{}: expected a JSON object", generation.string());
    const auto ids = llama_ids(JsonView(more, generation.string()), "eos_token_id");
    if (!ids.empty()) c.eos_ids = ids;
  }
  return c;
}

Json LlamaConfig::to_json() const {
  Json json;
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = "llama";
  json["vocab_size"] = vocab_size;
  json["hidden_size"] = hidden_size;
  json["intermediate_size"] = intermediate_size;
  json["num_hidden_layers"] = num_layers;
  json["num_attention_heads"] = num_heads;
  json["num_key_value_heads"] = num_kv_heads;
  json["head_dim"] = head_dim;
  json["max_position_embeddings"] = max_positions;
  json["rms_norm_eps"] = rms_norm_eps;
  json["hidden_act"] = "silu";
  json["attention_bias"] = attention_bias;
  json["mlp_bias"] = mlp_bias;
  json["tie_word_embeddings"] = tie_embeddings;
  // The older style: transformers 4 and llama.cpp read it, transformers 5 moves it into
  // rope_parameters.
  json["rope_theta"] = rope.theta;
  json["rope_scaling"] = nullptr;
  if (rope.type != "default") {
    Json scaling = {{"rope_type", rope.type}, {"factor", rope.factor}};
    if (rope.original_max_positions != max_positions || rope.type == "llama3")
      scaling["original_max_position_embeddings"] = rope.original_max_positions;
    if (rope.type == "longrope") {
      scaling["short_factor"] = scaling["long_factor"] = rope.divisors;
      scaling["attention_factor"] = 1.0;
      scaling["original_max_position_embeddings"] = rope.original_max_positions;
    }
    if (rope.type == "llama3") {
      scaling["low_freq_factor"] = rope.low_freq_factor;
      scaling["high_freq_factor"] = rope.high_freq_factor;
    }
    if (rope.type == "yarn") {
      scaling["beta_fast"] = rope.beta_fast;
      scaling["beta_slow"] = rope.beta_slow;
      if (rope.attention_factor >= 0.0) scaling["attention_factor"] = rope.attention_factor;
      if (rope.mscale != 0.0) scaling["mscale"] = rope.mscale;
      if (rope.mscale_all_dim != 0.0) scaling["mscale_all_dim"] = rope.mscale_all_dim;
      if (!rope.truncate) scaling["truncate"] = false;
    }
    json["rope_scaling"] = scaling;
  }
  if (bos_id >= 0) json["bos_token_id"] = bos_id;
  if (eos_ids.size() == 1) json["eos_token_id"] = eos_ids.front();
  if (eos_ids.size() > 1) json["eos_token_id"] = eos_ids;
  json["torch_dtype"] = dtype.empty() ? "float32" : dtype;
  if (packed) json["quantization_config"] = packed_config(*packed, packed_linears);
  return json;
}

int64_t LlamaConfig::num_parameters() const {
  const int64_t D = hidden_size, F = intermediate_size, q = llama_product({num_heads, head_dim}),
                kv = llama_product({num_kv_heads, head_dim});
  const int64_t matrices =
      llama_product({D, q, 2}) + llama_product({D, kv, 2}) + llama_product({D, F, 3});
  const int64_t biases = (attention_bias ? q + 2 * kv + D : 0) + (mlp_bias ? 2 * F + D : 0);
  const int64_t tables = llama_product({vocab_size, D, tie_embeddings ? 1 : 2});
  return tables + llama_product({num_layers, matrices + biases + 2 * D}) + D;
}

}  // namespace euromodal
