// step_plan.h — which positions of the sampler make up the global batch of a step: a number of
// samples, or as many as fill a budget of token rows.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "training/data/dataset.h"

namespace euromodal {

/// Positions [first, first + count) of the sampler.
struct StepRange {
  int64_t first = 0, count = 0;
};

class StepPlan {
 public:
  virtual ~StepPlan() = default;
  /// A function of (data, sampler, step) alone. One thread at a time.
  virtual StepRange range(int64_t step) = 0;
};

/// Step s holds the positions s·samples, s·samples + 1, ...: over the ends of epochs.
std::unique_ptr<StepPlan> plan_samples(int64_t samples);

/// Batches of about `rows` token rows (Dataset::cost), samples in the sampler's order. An epoch has
/// K = ceil(all rows / rows) steps, whatever its order; step k of it holds the samples that begin
/// in rows [k, k + 1) · all / K, so the batches of an epoch are alike, none holds more than all / K
/// and one sample, and none crosses the end of an epoch. To start at any step costs one pass over
/// the costs of its epoch, not over those before it; kept: 4 bytes a sample and 8 a step.
/// ConfigError when a single sample has more rows than the budget.
std::unique_ptr<StepPlan> plan_rows(const Dataset& data, const Sampler& sampler, int64_t rows);

}  // namespace euromodal
