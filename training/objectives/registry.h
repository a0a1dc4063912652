// registry.h — the objectives by `type`: one line each in registry.cpp.
#pragma once
#include <memory>
#include <vector>

#include "training/objective.h"

namespace euromodal {

using ObjectiveFactory = std::unique_ptr<Objective> (*)(const Config& config, uint64_t seed,
                                                        bool deterministic);
struct ObjectiveEntry {
  const char* type;
  ObjectiveFactory make;
};

const std::vector<ObjectiveEntry>& objective_registry();

}  // namespace euromodal
