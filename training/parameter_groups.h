// parameter_groups.h — which parameters a run trains and which optimiser each of them gets, by glob
// patterns over parameter names. Strict: a pattern that matches nothing, a trainable tensor in no
// group and a matrix optimiser on what is no matrix are errors that name the pattern or tensor.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "backbone/weights/weights.h"
#include "core/config.h"
#include "core/glob.h"
#include "training/schedule.h"

namespace euromodal {

/// One entry of `optimizer:`. Rates are the peak; the schedule scales them.
struct GroupOptions {
  enum class Type { kAdamW, kMuon } type = Type::kAdamW;
  std::vector<std::string> patterns;
  double lr = 0.0;
  double weight_decay = 0.0;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;  // adamw
  double momentum = 0.95;                        // muon
  int64_t ns_steps = 5;                          // muon
  std::optional<Schedule> schedule;              // instead of the run's
  std::string where;                             // "run.yaml:12: optimizer[0]", for messages
};
const char* group_type_name(GroupOptions::Type type);  // "adamw", "muon"

/// `optimizer: [{params: [...], type: adamw | muon, lr: ..., schedule: {...}, ...}, ...]` of a run
/// of `steps` steps, every key typed and read.
std::vector<GroupOptions> parse_groups(const Config& config, const std::string& key, int64_t steps);

/// The parameters whose names match one of `patterns`, in their own order; a tensor that stands
/// under two names (shared) is listed once, by its first name. ConfigError naming a pattern without
/// a match, or a matching tensor that is no floating-point tensor.
std::vector<NamedTensor> select_trainable(const std::vector<NamedTensor>& parameters,
                                          const std::vector<std::string>& patterns,
                                          const std::string& where);

/// For each tensor of `trainable` the index of the first group that matches. ConfigError naming the
/// pattern without a match, the tensor that no group takes, or the one that is no matrix but falls
/// to muon.
std::vector<int64_t> assign_groups(const std::vector<NamedTensor>& trainable,
                                   const std::vector<GroupOptions>& groups);

}  // namespace euromodal
