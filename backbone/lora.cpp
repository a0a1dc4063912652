// lora.cpp — see lora.h.
#include "backbone/lora.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include "backbone/peft_folder.h"
#include "core/glob.h"
#include "core/rng.h"

namespace euromodal {
namespace {

constexpr int64_t kLoraMaxRank = 65536;
constexpr const char* kLoraHead = "lm_head";

LoraGroup lora_group(const Config& config) {
  LoraGroup out;
  out.where = config.where();
  out.rank = config.i64("rank");
  check<ConfigError>(out.rank >= 1 && out.rank <= kLoraMaxRank, "{}: expected 1 to {}, got {}",
                     config.where("rank"), kLoraMaxRank, out.rank);
  out.alpha = config.f64("alpha");
  check<ConfigError>(out.alpha > 0.0, "{}: expected a number above 0, got {}",
                     config.where("alpha"), out.alpha);
  out.targets = config.strs("targets");
  check<ConfigError>(!out.targets.empty(), "{}: expected at least one name",
                     config.where("targets"));
  if (config.has("layers")) {
    const std::vector<double> layers = config.f64s("layers");
    check<ConfigError>(layers.size() == 2 && layers[0] >= 0.0 && layers[0] <= layers[1] &&
                           std::floor(layers[0]) == layers[0] && std::floor(layers[1]) == layers[1],
                       "{}: expected [first, last], whole numbers from 0 in ascending order",
                       config.where("layers"));
    out.layers = {static_cast<int64_t>(layers[0]), static_cast<int64_t>(layers[1])};
  }
  return out;
}

bool lora_names(const std::string& target, const std::string& name) {
  if (name == kLoraHead) return name == target;
  if (target.find_first_of("*?") != std::string::npos) return glob_match(target, name);
  return name == target || name.ends_with("." + target);
}

/// The number behind "layers." in a module's name; -1: it is in no layer.
int64_t lora_layer(const std::string& name) {
  const auto at = name.find("layers.");
  if (at == std::string::npos) return -1;
  int64_t layer = -1;
  std::from_chars(name.data() + at + 7, name.data() + name.size(), layer);
  return layer;
}

bool lora_takes(const LoraGroup& group, const std::string& target, const std::string& name) {
  if (group.layers) {
    const int64_t layer = lora_layer(name);
    if (layer < group.layers->first || layer > group.layers->second) return false;
  }
  return lora_names(target, name);
}

/// The attention of SigLIP's pooling head is torch's MultiheadAttention: q, k and v are one
/// parameter, and PEFT's update of its out_proj is never computed there.
const char* lora_hint(const std::string& target) {
  if (target == kLoraHead)
    return "; an encoder has no head, and one that is the embedding table itself takes no LoRA";
  const bool fused = target.find("in_proj") != std::string::npos ||
                     target.find("attention.out_proj") != std::string::npos;
  return fused ? "; in_proj and out_proj of a pooling head's fused attention take no LoRA" : "";
}

std::string lora_some_names(const std::vector<Linear>& linears) {
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min<size_t>(linears.size(), 8); ++i)
    names.push_back(linears[i].name());
  if (linears.size() > names.size()) names.emplace_back("...");
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

// Uniform in ±1/sqrt(I): torch's kaiming_uniform_(a = sqrt(5)), with which PEFT starts A.
at::Tensor lora_draw_a(int64_t rank, const at::Tensor& weight_OI, Rng rng) {
  const int64_t in = weight_OI.size(1);
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  at::Tensor drawn_RI = at::empty({rank, in}, at::kDouble);
  double* const out = drawn_RI.mutable_data_ptr<double>();
  for (int64_t i = 0; i < drawn_RI.numel(); ++i) out[i] = rng.uniform(-bound, bound);
  return drawn_RI.to(weight_OI.options());
}

}  // namespace

LoraConfig LoraConfig::parse(const Config& config) {
  LoraConfig out;
  if (config.has("dropout")) {
    out.dropout = config.f64("dropout");
    check<ConfigError>(*out.dropout >= 0.0 && *out.dropout < 1.0,
                       "{}: expected a number in [0, 1), got {}", config.where("dropout"),
                       *out.dropout);
  }
  if (config.has("peft")) {
    out.peft = config.path("peft");
    return out;
  }
  out.rslora = config.boolean("rslora", false);
  if (config.has("groups")) {
    for (const Config& group : config.list("groups")) out.groups.push_back(lora_group(group));
    check<ConfigError>(!out.groups.empty(), "{}: expected at least one group",
                       config.where("groups"));
  } else {
    out.groups.push_back(lora_group(config));
  }
  return out;
}

void add_lora(const std::vector<Linear>& linears, const LoraConfig& config, uint64_t seed,
              const std::string& stream) {
  if (config.peft) {
    load_peft(*config.peft, linears, config.dropout);
    return;
  }
  for (const LoraGroup& group : config.groups) {
    for (const std::string& target : group.targets) {
      const bool any = std::any_of(linears.begin(), linears.end(), [&](const Linear& linear) {
        return lora_takes(group, target, linear.name());
      });
      check<ConfigError>(any, "{}: target \"{}\" names no linear{} (there are {}: {}){}",
                         group.where, target, group.layers ? " in these layers" : "",
                         linears.size(), lora_some_names(linears), lora_hint(target));
    }
  }
  for (Linear linear : linears) {
    const auto group =
        std::find_if(config.groups.begin(), config.groups.end(), [&](const LoraGroup& g) {
          return std::any_of(g.targets.begin(), g.targets.end(), [&](const std::string& target) {
            return lora_takes(g, target, linear.name());
          });
        });
    if (group == config.groups.end()) continue;
    const at::Tensor& w = linear.weight_OI();
    linear.set_lora(
        {.a_RI = lora_draw_a(group->rank, w,
                             Rng(seed).fork(stream).fork(linear.name() + ".lora_A.weight")),
         .b_OR = at::zeros({w.size(0), group->rank}, w.options()),
         .alpha = group->alpha,
         .rslora = config.rslora,
         .dropout = config.dropout.value_or(0.0)});
  }
}

void configure_lora(const Config& section, const std::vector<Linear>& linears, uint64_t seed,
                    const std::string& stream) {
  if (!section.has("lora")) return;
  check<ConfigError>(!has_lora(linears),
                     "{}: the folder has a LoRA already: leave this out to go on with it, or merge "
                     "it first (a run of steps: 0 with merge_lora: true)",
                     section.where("lora"));
  add_lora(linears, LoraConfig::parse(section.child("lora")), seed, stream);
}

bool has_lora(const std::vector<Linear>& linears) {
  return std::any_of(linears.begin(), linears.end(),
                     [](const Linear& linear) { return linear.lora() != nullptr; });
}

std::vector<NamedTensor> lora_parameters(const std::vector<Linear>& linears) {
  std::vector<NamedTensor> out;
  for (const Linear& linear : linears) {
    const Lora* lora = linear.lora();
    if (lora == nullptr) continue;
    out.push_back({linear.name() + ".lora_A.weight", lora->a_RI});
    out.push_back({linear.name() + ".lora_B.weight", lora->b_OR});
  }
  return out;
}

void merge_lora(const std::vector<Linear>& linears) {
  for (Linear linear : linears) linear.merge_lora();
}

MergedWeights::MergedWeights(const std::vector<Linear>& linears) {
  const c10::NoGradGuard no_grad;
  for (const Linear& linear : linears) {
    if (linear.lora() == nullptr) continue;
    at::Tensor weight_OI = linear.weight_OI();
    saved_.emplace_back(weight_OI, weight_OI.detach());
    // Not written to: other processes may hold the same memory.
    weight_OI.set_data(linear.merged_weight_OI());
  }
}

MergedWeights::~MergedWeights() {
  for (auto& [weight_OI, values_OI] : saved_) weight_OI.set_data(values_OI);
}

}  // namespace euromodal
