// lora.h — LoRA on the linears of a backbone or an encoder: from a run's YAML or from a PEFT
// folder, its parameters, its dropout, and merging. References: Hu et al. 2021; peft 0.21
// LoraConfig.
//
//   lora: {rank: 16, alpha: 32, targets: [q_proj, v_proj]}
//   lora:
//     dropout: 0.05            # of the update's input, in training; default 0
//     rslora: true             # scale alpha / sqrt(rank), not alpha / rank; default false
//     groups:                  # several ranks: the first group with a fitting target takes a
//     linear
//       - {rank: 16, alpha: 32, targets: [q_proj, v_proj], layers: [0, 11]}
//       - {rank: 4, alpha: 8, targets: ["*.mlp.*"]}
//   lora: {peft: DIR}          # starts from what PEFT (or this program) saved; dropout may stand
//                              # beside it
//
// A target names the end of a module's name, as PEFT's target_modules do (q_proj,
// self_attn.q_proj), or the whole name with wildcards (`*`, `?`; they never take the head, lm_head,
// which PEFT's "all-linear" leaves out too). `layers`: first and last, both
// included.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backbone/nn/linear.h"
#include "backbone/weights/safetensors.h"
#include "core/config.h"

namespace euromodal {

/// Where a text model's folder holds the LoRA of its linears (peft_folder.h), if it has one.
inline constexpr const char* kBackboneLora = "lora_backbone";

struct LoraGroup {
  int64_t rank = 0;
  double alpha = 0.0;
  std::vector<std::string> targets;
  std::optional<std::pair<int64_t, int64_t>> layers;
  std::string where;  // for messages
};

struct LoraConfig {
  std::vector<LoraGroup> groups;              // empty with peft
  std::optional<std::filesystem::path> peft;  // start from this folder
  std::optional<double> dropout;              // nothing: 0, or what the folder says
  bool rslora = false;

  /// The map below `lora`; ConfigError naming file, line and key.
  static LoraConfig parse(const Config& config);
};

/// Puts a LoRA on the linears that the config names. A is drawn as PEFT does, uniform in
/// ±1/sqrt(inputs), from (seed, stream, name) alone; B is zero: the model starts as it was.
/// `stream`: "backbone", "encoder.image". ConfigError naming a target or group without a linear.
void add_lora(const std::vector<Linear>& linears, const LoraConfig& config, uint64_t seed,
              const std::string& stream);

/// The map `lora` of a section of the YAML put on the part that the section describes; nothing
/// without it. ConfigError where the linears have a LoRA already: their folder held one.
void configure_lora(const Config& section, const std::vector<Linear>& linears, uint64_t seed,
                    const std::string& stream);

bool has_lora(const std::vector<Linear>& linears);
/// "NAME.lora_A.weight" [R, I] and "NAME.lora_B.weight" [O, R] of each linear that has one.
std::vector<NamedTensor> lora_parameters(const std::vector<Linear>& linears);
/// Into the weights, for good.
void merge_lora(const std::vector<Linear>& linears);

/// While it lives the weights of `linears` hold what merging gives (for saving; not to compute
/// with); afterwards they are as before, bit for bit.
class MergedWeights {
 public:
  explicit MergedWeights(const std::vector<Linear>& linears);
  ~MergedWeights();
  MergedWeights(const MergedWeights&) = delete;
  MergedWeights& operator=(const MergedWeights&) = delete;

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> saved_;  // weight, its values
};

}  // namespace euromodal
