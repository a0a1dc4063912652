// registry.cpp — the objectives by name.
#include <array>
#include <string>
#include <vector>

#include "training/objectives/objectives.h"

namespace euromodal {
namespace {

struct ObjectiveEntry {
  const char* type;
  ObjectiveFactory make;
};

constexpr std::array kObjectives = {
    ObjectiveEntry{"next_token", &make_next_token},
    ObjectiveEntry{"classification", &make_classification},
    ObjectiveEntry{"ctc", &make_ctc},
};

}  // namespace

std::unique_ptr<Objective> make_objective(const Config& config, uint64_t seed, bool deterministic) {
  std::vector<std::string> names;
  for (const ObjectiveEntry& entry : kObjectives) names.emplace_back(entry.type);
  const std::string type = config.choice("type", names);
  for (const ObjectiveEntry& entry : kObjectives) {
    if (type == entry.type)
      return entry.make(config, {.seed = seed, .deterministic = deterministic});
  }
  throw ConfigError("{}: unknown objective '{}'", config.where("type"), type);
}

}  // namespace euromodal
