// validation.cpp — see validation.h.
#include "training/validation.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "core/log.h"
#include "training/run_metrics.h"

namespace euromodal {

Json run_validation(Objective& objective, const Dataset& data, const ValidationOptions& options,
                    Collectives& world) {
  const c10::NoGradGuard no_grad;
  const int64_t total = std::min(options.max_samples, data.size()),
                share = std::max<int64_t>(1, options.batch_samples / world.size());
  RunMetrics metrics;
  int64_t bad = 0;
  for (int64_t next = world.rank(); next < total;) {
    std::vector<Example> examples;
    for (; next < total && static_cast<int64_t>(examples.size()) < share; next += world.size()) {
      try {
        examples.push_back(objective.prepare(data.get(next), Rng(0), /*training=*/false));
      } catch (const DataError& e) {
        log_warn("validation sample {}: {}", next, e.what());
        check<DataError>(++bad <= options.max_bad_samples,
                         "validation: {} bad samples, more than max_bad_samples {}; the last: {}",
                         bad, options.max_bad_samples, e.what());
      }
    }
    if (examples.empty()) continue;
    const LossSums sums =
        objective.loss(collate(std::move(examples), options.per_sample), /*training=*/false);
    if (sums.loss_sum.defined()) metrics.add("loss", sums.loss_sum.item<double>(), sums.count);
    metrics.add(sums.metrics);
  }
  Json out = Json::object();
  for (const auto& [name, value] : metrics.reduce(world)) {
    if (value.second > 0.0) out["validation_" + name] = value.first / value.second;
  }
  return out;
}

}  // namespace euromodal
