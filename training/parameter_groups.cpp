// parameter_groups.cpp — see parameter_groups.h.
#include "training/parameter_groups.h"

#include <algorithm>
#include <set>

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "backbone/float8_model.h"

namespace euromodal {

namespace {

// A few names as a hint of what there is.
std::string groups_some_names(const std::vector<NamedTensor>& tensors) {
  std::vector<std::string> names;
  for (const auto& tensor : tensors) {
    if (names.size() == 4) {
      names.push_back("...");
      break;
    }
    names.push_back(tensor.name);
  }
  return names.empty() ? std::string("none") : fmt::format("{}", fmt::join(names, ", "));
}

bool groups_any_match(const std::string& pattern, const std::vector<NamedTensor>& tensors) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const NamedTensor& t) { return glob_match(pattern, t.name); });
}

double groups_positive(const Config& config, const std::string& key, double value) {
  check<ConfigError>(value > 0.0, "{}: expected a number above 0, got {}", config.where(key),
                     value);
  return value;
}

// [0, 1): coefficients of running means.
double groups_beta(const Config& config, const std::string& key, double value) {
  check<ConfigError>(value >= 0.0 && value < 1.0, "{}: expected a number in [0, 1), got {}",
                     config.where(key), value);
  return value;
}

}  // namespace

const char* group_type_name(GroupOptions::Type type) {
  return type == GroupOptions::Type::kMuon ? "muon" : "adamw";
}

std::vector<GroupOptions> parse_groups(const Config& config, const std::string& key,
                                       int64_t steps) {
  std::vector<GroupOptions> out;
  for (const Config& entry : config.list(key)) {
    GroupOptions group;
    group.where = entry.where();
    group.patterns = entry.strs("params");
    group.lr = groups_positive(entry, "lr", entry.f64("lr"));
    group.weight_decay = entry.f64("weight_decay", 0.0);
    check<ConfigError>(group.weight_decay >= 0.0, "{}: expected a number of at least 0, got {}",
                       entry.where("weight_decay"), group.weight_decay);
    if (entry.choice("type", {"adamw", "muon"}) == "muon") {
      group.type = GroupOptions::Type::kMuon;
      group.momentum = groups_beta(entry, "momentum", entry.f64("momentum"));
      group.ns_steps = entry.i64("ns_steps", 5);
      check<ConfigError>(group.ns_steps >= 1 && group.ns_steps <= 20,
                         "{}: expected 1 to 20 Newton-Schulz steps, got {}",
                         entry.where("ns_steps"), group.ns_steps);
    } else {
      const std::vector<double> betas = entry.f64s("betas");
      check<ConfigError>(betas.size() == 2, "{}: expected two numbers, got {}",
                         entry.where("betas"), betas.size());
      group.beta1 = groups_beta(entry, "betas", betas[0]);
      group.beta2 = groups_beta(entry, "betas", betas[1]);
      group.eps = groups_positive(entry, "eps", entry.f64("eps"));
    }
    if (entry.has("schedule")) group.schedule = Schedule::parse(entry.child("schedule"), steps);
    out.push_back(std::move(group));
  }
  check<ConfigError>(!out.empty(), "{}: expected a list of at least one group", config.where(key));
  return out;
}

std::vector<NamedTensor> select_trainable(const std::vector<NamedTensor>& parameters,
                                          const std::vector<std::string>& patterns,
                                          const std::string& where) {
  for (const auto& pattern : patterns) {
    check<ConfigError>(groups_any_match(pattern, parameters),
                       "{}: pattern \"{}\" matches no parameter (there are {}: {})", where, pattern,
                       parameters.size(), groups_some_names(parameters));
  }
  std::vector<NamedTensor> out;
  std::set<const void*> seen;
  for (const auto& parameter : parameters) {
    const bool wanted = std::any_of(
        patterns.begin(), patterns.end(),
        [&](const std::string& pattern) { return glob_match(pattern, parameter.name); });
    if (!wanted || !seen.insert(parameter.tensor.unsafeGetTensorImpl()).second) continue;
    check<ConfigError>(at::isFloatingType(parameter.tensor.scalar_type()),
                       "{}: {} is of type {} and cannot be trained", where, parameter.name,
                       c10::toString(parameter.tensor.scalar_type()));
    check<ConfigError>(parameter.tensor.scalar_type() != at::kFloat8_e4m3fn &&
                           !parameter.name.ends_with(std::string(".weight") + kFloat8ScaleSuffix),
                       "{}: {} is kept in float8 (backbone: {{weights: float8}}) and cannot be "
                       "trained; leave it out here, or set weights to plain",
                       where, parameter.name);
    out.push_back(parameter);
  }
  return out;
}

std::vector<int64_t> assign_groups(const std::vector<NamedTensor>& trainable,
                                   const std::vector<GroupOptions>& groups) {
  for (const auto& group : groups) {
    for (const auto& pattern : group.patterns) {
      check<ConfigError>(groups_any_match(pattern, trainable),
                         "{}: params: pattern \"{}\" matches no trainable parameter (there are {}: "
                         "{})",
                         group.where, pattern, trainable.size(), groups_some_names(trainable));
    }
  }
  std::vector<int64_t> out;
  for (const auto& parameter : trainable) {
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const GroupOptions& g) {
      return std::any_of(g.patterns.begin(), g.patterns.end(), [&](const std::string& pattern) {
        return glob_match(pattern, parameter.name);
      });
    });
    check<ConfigError>(
        group != groups.end(),
        "optimizer: the trainable parameter {} is in no group; add its name or \"*\" "
        "to the params of one",
        parameter.name);
    check<ConfigError>(
        group->type != GroupOptions::Type::kMuon || parameter.tensor.dim() == 2,
        "{}: muon takes matrices only, but {} has shape [{}]; put it into an adamw group that "
        "stands before",
        group->where, parameter.name, fmt::join(parameter.tensor.sizes(), ", "));
    out.push_back(group - groups.begin());
  }
  return out;
}

}  // namespace euromodal
