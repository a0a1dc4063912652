// registry.cpp — see registry.h.
#include "training/objectives/registry.h"

#include "training/objectives/classification.h"
#include "training/objectives/ctc.h"
#include "training/objectives/next_token.h"

namespace euromodal {

const std::vector<ObjectiveEntry>& objective_registry() {
  static const std::vector<ObjectiveEntry> table = {
      {"next_token", &make_next_token},
      {"classification", &make_classification},
      {"ctc", &make_ctc},
  };
  return table;
}

std::unique_ptr<Objective> make_objective(const Config& config, uint64_t seed, bool deterministic) {
  std::vector<std::string> types;
  for (const ObjectiveEntry& entry : objective_registry()) types.emplace_back(entry.type);
  const std::string type = config.choice("type", types);
  for (const ObjectiveEntry& entry : objective_registry()) {
    if (type == entry.type) return entry.make(config, seed, deterministic);
  }
  throw ConfigError("{}: unknown objective {}", config.where("type"), type);
}

}  // namespace euromodal
