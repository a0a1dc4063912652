// objectives.h — the factories behind training/objective.h; registry.cpp lists them, one line each.
#pragma once
#include <memory>

#include "training/objective.h"

namespace euromodal {

struct ObjectiveOptions {
  uint64_t seed = 0;
  bool deterministic = false;
};

using ObjectiveFactory = std::unique_ptr<Objective> (*)(const Config& config,
                                                        const ObjectiveOptions& options);

std::unique_ptr<Objective> make_next_token(const Config& config, const ObjectiveOptions& options);
std::unique_ptr<Objective> make_classification(const Config& config,
                                               const ObjectiveOptions& options);
std::unique_ptr<Objective> make_ctc(const Config& config, const ObjectiveOptions& options);

}  // namespace euromodal
