// peft_folder.cpp — see peft_folder.h.
#include "backbone/peft_folder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <regex>
#include <set>

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "backbone/weights/safetensors.h"
#include "core/files.h"
#include "core/json.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPeftConfig = "adapter_config.json";
constexpr const char* kPeftTensors = "adapter_model.safetensors";
constexpr const char* kPeftPrefix = "base_model.model.";

/// Keys that say which modules PEFT would wrap or how it would start them: the tensors of the file
/// say that already.
constexpr std::array kPeftSettled = {
    "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern",
    "peft_version", "eva_config", "corda_config", "loftq_config", "lora_ga_config",
    "runtime_config", "ephemeral_gpu_offload", "megatron_core", "ensure_weight_tying",
    "qalora_group_size",
    // read below
    "peft_type", "lora_alpha", "alpha_pattern", "lora_dropout", "use_rslora", "bias",
    "init_lora_weights"};

bool peft_says_nothing(const Json& value) {
  return value.is_null() || value == false || value == 0 ||
         ((value.is_array() || value.is_object() || value.is_string()) && value.empty());
}

struct PeftNumbers {
  double alpha = 0.0, dropout = 0.0;
  bool rslora = false;
  std::vector<std::pair<std::string, double>> alpha_of;  // regular expression -> alpha
};

PeftNumbers peft_read_config(const fs::path& file) {
  const Json json = read_json(file);
  const std::string name = file.string();
  check<ConfigError>(json.is_object(), "{}: expected a JSON object", name);
  const JsonView view(json, name);
  const std::string type = view.str("peft_type");
  check<ConfigError>(type == "LORA", "{}: peft_type: got {}, only LORA is possible", name, type);
  check<ConfigError>(!view.boolean("use_dora", false),
                     "{}: use_dora: DoRA is not possible, only plain LoRA; merge it with PEFT "
                     "(merge_and_unload) and use the merged model",
                     name);
  check<ConfigError>(
      !json.contains("modules_to_save") || peft_says_nothing(json["modules_to_save"]),
      "{}: modules_to_save: whole trained modules beside the LoRA ({}) are not "
      "possible; merge with PEFT (merge_and_unload) and use the merged model",
      name, json.value("modules_to_save", Json()).dump());
  check<ConfigError>(view.str("bias", "none") == "none",
                     "{}: bias: got {}, trained biases are not possible, only none", name,
                     view.str("bias", "none"));
  if (json.contains("init_lora_weights") && json["init_lora_weights"].is_string()) {
    const std::string init = json["init_lora_weights"].get<std::string>();
    for (const char* changes : {"pissa", "olora", "corda", "loftq", "lora_ga"})
      check<ConfigError>(!init.starts_with(changes),
                         "{}: init_lora_weights: {} changes the base weights; convert it with "
                         "PEFT to a plain LoRA (path_initial_model_for_weight_conversion)",
                         name, init);
  }
  for (const auto& [key, value] : json.items()) {
    const bool known =
        std::find(kPeftSettled.begin(), kPeftSettled.end(), key) != kPeftSettled.end();
    check<ConfigError>(known || peft_says_nothing(value),
                       "{}: {}: {} is more than a plain LoRA, which is all that is possible", name,
                       key, value.dump());
  }
  PeftNumbers out;
  out.alpha = view.f64("lora_alpha", 8.0);  // PEFT's own default
  out.dropout = view.f64("lora_dropout", 0.0);
  out.rslora = view.boolean("use_rslora", false);
  if (view.has("alpha_pattern")) {
    const JsonView patterns = view.object("alpha_pattern");
    for (const auto& [pattern, value] : patterns.raw().items())
      out.alpha_of.emplace_back(pattern, patterns.f64(pattern));
  }
  return out;
}

/// PEFT: the first pattern that the end of the name fits, from the start or behind a dot.
double peft_alpha(const PeftNumbers& numbers, const std::string& module, const std::string& file) {
  for (const auto& [pattern, alpha] : numbers.alpha_of) {
    try {
      if (std::regex_match(module, std::regex("(.*\\.)?(" + pattern + ")"))) return alpha;
    } catch (const std::regex_error& e) {
      throw ConfigError("{}: alpha_pattern: {} is no regular expression: {}", file, pattern,
                        e.what());
    }
  }
  return numbers.alpha;
}

/// One name may be the end of the other: PeftModel of a LlamaModel alone has no "model." in front.
bool peft_same_module(const std::string& a, const std::string& b) {
  return a == b || a.ends_with("." + b) || b.ends_with("." + a);
}

Linear peft_find(const std::vector<Linear>& linears, const std::string& module,
                 const std::string& file) {
  for (const Linear& linear : linears) {
    if (linear.name() == module) return linear;
  }
  std::vector<Linear> found;
  for (const Linear& linear : linears) {
    if (peft_same_module(linear.name(), module)) found.push_back(linear);
  }
  check<CheckpointError>(found.size() == 1,
                         "{}: {} is {} of this model's linears with LoRA (the first of {}: {})",
                         file, module, found.empty() ? "none" : "more than one", linears.size(),
                         linears.empty() ? "none" : linears.front().name());
  return found.front();
}

struct PeftPair {
  at::Tensor a_RI, b_OR;
  at::Tensor base_OI;  // beside the LoRA of a head PEFT saves its weight too; mostly undefined
};

struct PeftPart {
  std::string_view ending;
  at::Tensor PeftPair::*tensor;
};
constexpr std::array kPeftParts = {PeftPart{".lora_A.weight", &PeftPair::a_RI},
                                   PeftPart{".lora_B.weight", &PeftPair::b_OR},
                                   PeftPart{".base_layer.weight", &PeftPair::base_OI}};

std::map<std::string, PeftPair> peft_read_tensors(const fs::path& path) {
  const SafetensorsFile file(path);
  const std::string name = path.string(), prefix = kPeftPrefix;
  std::map<std::string, PeftPair> out;
  for (const TensorInfo& info : file.infos()) {
    const auto part = std::find_if(kPeftParts.begin(), kPeftParts.end(), [&](const PeftPart& p) {
      return info.name.ends_with(p.ending);
    });
    check<CheckpointError>(info.name.starts_with(prefix) && part != kPeftParts.end() &&
                               info.shape.size() == 2 && at::isFloatingType(info.dtype),
                           "{}: tensor {} [{}] is no lora_A or lora_B of a linear", name, info.name,
                           fmt::join(info.shape, ", "));
    const size_t length = info.name.size() - prefix.size() - part->ending.size();
    out[info.name.substr(prefix.size(), length)].*(part->tensor) = file.tensor(info);
  }
  check<CheckpointError>(!out.empty(), "{}: holds no tensors", name);
  for (const auto& [module, pair] : out)
    check<CheckpointError>(pair.a_RI.defined() && pair.b_OR.defined(), "{}: {}: {} is missing",
                           name, module, pair.a_RI.defined() ? "lora_B" : "lora_A");
  return out;
}

/// The pair of rank and alpha that most linears have is the config's own; the others are patterns.
std::pair<int64_t, double> peft_most_common(const std::vector<Linear>& wrapped) {
  std::map<std::pair<int64_t, double>, int> counts;
  for (const Linear& linear : wrapped) ++counts[{linear.lora()->rank(), linear.lora()->alpha}];
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

std::string peft_last_word(const std::string& name) { return name.substr(name.rfind('.') + 1); }

/// "q_proj" where every linear of that name has a LoRA, else whole names.
std::set<std::string> peft_targets(const std::vector<Linear>& linears, PeftTask task) {
  std::map<std::string, bool> all;
  for (const Linear& linear : linears) {
    const auto [at, first] = all.try_emplace(peft_last_word(linear.name()), true);
    at->second = at->second && linear.lora() != nullptr;
  }
  std::set<std::string> out;
  for (const Linear& linear : linears) {
    if (linear.lora() == nullptr) continue;
    const std::string word = peft_last_word(linear.name());
    out.insert(task == PeftTask::kCausalLm && all.at(word) ? word : linear.name());
  }
  return out;
}

/// 16 and not 16.0, as PEFT writes it.
Json peft_number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

}  // namespace

bool is_peft_folder(const fs::path& dir) { return fs::exists(dir / kPeftConfig); }

void load_peft(const fs::path& dir, const std::vector<Linear>& linears,
               std::optional<double> dropout) {
  check<CheckpointError>(is_peft_folder(dir), "{}: is no PEFT folder: {} is missing", dir.string(),
                         kPeftConfig);
  check<CheckpointError>(fs::exists(dir / kPeftTensors),
                         "{}: {} is missing (an adapter_model.bin "
                         "is not read; save it again with PEFT)",
                         dir.string(), kPeftTensors);
  const PeftNumbers numbers = peft_read_config(dir / kPeftConfig);
  const double rate = dropout.value_or(numbers.dropout);
  check<ConfigError>(rate >= 0.0 && rate < 1.0, "{}: lora_dropout: expected [0, 1), got {}",
                     (dir / kPeftConfig).string(), rate);
  const std::string file = (dir / kPeftTensors).string();
  for (const auto& [module, pair] : peft_read_tensors(dir / kPeftTensors)) {
    Linear linear = peft_find(linears, module, file);
    const at::Tensor& w = linear.weight_OI();
    check<CheckpointError>(pair.a_RI.size(1) == w.size(1) && pair.b_OR.size(0) == w.size(0) &&
                               pair.a_RI.size(0) == pair.b_OR.size(1) && pair.a_RI.size(0) > 0,
                           "{}: {}: lora_A [{}] and lora_B [{}] do not fit the weight [{}]", file,
                           module, fmt::join(pair.a_RI.sizes(), ", "),
                           fmt::join(pair.b_OR.sizes(), ", "), fmt::join(w.sizes(), ", "));
    check<CheckpointError>(
        !pair.base_OI.defined() ||
            (pair.base_OI.sizes() == w.sizes() && pair.base_OI.to(w.options()).equal(w)),
        "{}: {}: base_layer [{}] is not the weight [{}] of this model: the LoRA was trained on "
        "another one",
        file, module, fmt::join(pair.base_OI.sizes(), ", "), fmt::join(w.sizes(), ", "));
    // copies: the mapped file may be replaced when the model is saved
    linear.set_lora({.a_RI = pair.a_RI.to(w.options(), /*non_blocking=*/false, /*copy=*/true),
                     .b_OR = pair.b_OR.to(w.options(), /*non_blocking=*/false, /*copy=*/true),
                     .alpha = peft_alpha(numbers, module, (dir / kPeftConfig).string()),
                     .rslora = numbers.rslora,
                     .dropout = rate});
  }
}

void save_peft(const fs::path& dir, const std::vector<Linear>& linears, PeftTask task) {
  std::vector<Linear> wrapped;
  for (const Linear& linear : linears) {
    if (linear.lora() != nullptr) wrapped.push_back(linear);
  }
  check(!wrapped.empty(), "{}: there is no LoRA to save", dir.string());
  const auto [rank, alpha] = peft_most_common(wrapped);
  Json ranks = Json::object(), alphas = Json::object();
  std::vector<NamedTensor> tensors;
  for (const Linear& linear : wrapped) {
    const Lora& lora = *linear.lora();
    const std::string pattern = "^" + std::regex_replace(linear.name(), std::regex("\\."), "\\.");
    if (lora.rank() != rank) ranks[pattern] = lora.rank();
    if (lora.alpha != alpha) alphas[pattern] = peft_number(lora.alpha);
    const std::string name = kPeftPrefix + linear.name();
    tensors.push_back({name + ".lora_A.weight", lora.a_RI.detach()});
    tensors.push_back({name + ".lora_B.weight", lora.b_OR.detach()});
  }
  const Lora& first = *wrapped.front().lora();
  const Json config = {
      {"alpha_pattern", alphas},
      {"base_model_name_or_path", nullptr},
      {"bias", "none"},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"init_lora_weights", true},
      {"lora_alpha", peft_number(alpha)},
      {"lora_dropout", first.dropout},
      {"modules_to_save", nullptr},
      {"peft_type", "LORA"},
      {"r", rank},
      {"rank_pattern", ranks},
      {"target_modules", peft_targets(linears, task)},
      {"task_type", task == PeftTask::kCausalLm ? "CAUSAL_LM" : "FEATURE_EXTRACTION"},
      {"use_dora", false},
      {"use_rslora", first.rslora}};
  fs::create_directories(dir);
  write_text_atomic(dir / kPeftConfig, config.dump(1) + "\n");
  save_safetensors(dir / kPeftTensors, tensors);
}

}  // namespace euromodal
