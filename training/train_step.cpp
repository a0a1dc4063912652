// train_step.cpp — see train_step.h.
#include "training/train_step.h"

#include <algorithm>

#include "core/time_split.h"

namespace euromodal {
namespace {

std::string train_step_samples(const std::vector<PartBatches>& parts) {
  std::string out;
  for (const PartBatches& part : parts) {
    for (const Batch& batch : part.batches) {
      for (const Example& example : batch.examples) out += example.id + " ";
    }
  }
  return out;
}

}  // namespace

TrainStep::TrainStep(const RunParts& parts, Objective& objective, Collectives& world,
                     const TrainStepOptions& options, Learned learned)
    : parts_(parts),
      world_(world),
      gradient_(objective, parts.buffer, world, options.gradient),
      judge_({.clip_norm = options.clip_norm,
              .spike_window = options.guard.spike_window,
              .spike_factor = options.guard.spike_factor},
             parts.buffer.device().device(), parts.guard.losses(), parts.guard.norms()),
      late_(options.late.value_or(parts.buffer.on_cuda())),
      learned_(std::move(learned)) {}

void TrainStep::run(int64_t step, const std::vector<PartBatches>& batch,
                    const std::vector<double>& lr_factors, RunMetrics& metrics,
                    std::span<double> votes) {
  const BatchSums sums = gradient_.run(batch, metrics, votes);
  Waiting now{
      .step = step, .count = sums.count, .figures = {}, .samples = train_step_samples(batch)};
  StepDecision decision;
  if (sums.count > 0.0) {
    decision = judge_.judge(sums.loss_sum, gradient_.norms().total, sums.count);
    now.figures = LateRead(decision.figures_F);
  }
  settle();  // AdamW's corrections go by the number of updates before this one
  waiting_ = std::move(now);
  if (sums.count > 0.0) {
    const TimeScope scope("optimizer");
    parts_.optimizer.step(lr_factors, {.factor = decision.factor, .apply = decision.apply}, world_);
    if (parts_.average != nullptr) parts_.average->update(parts_.buffer, decision.apply);
  }
  if (!late_) settle();
}

void TrainStep::settle() {
  if (!waiting_) return;
  const Waiting known = std::move(*waiting_);
  waiting_.reset();
  last_ = {.step = known.step, .count = known.count, .figures = {}};
  if (known.count > 0.0) last_.figures = StepFigures::read(known.figures.read());
  const StepVerdict verdict = last_.figures.verdict;
  parts_.guard.learn(known.step, last_.loss(), last_.figures);
  learned_(last_);
  if (verdict == StepVerdict::kApply) return;
  if (known.count > 0.0) parts_.optimizer.skipped();
  parts_.guard.skipped(known.step, verdict, all_samples(known.samples));
}

/// Of all ranks, for the log.
std::string TrainStep::all_samples(const std::string& mine) const {
  const std::vector<char> all = world_.all_gather(mine.data(), static_cast<int64_t>(mine.size()));
  constexpr size_t kLongest = 4000;
  std::string text(all.begin(), all.begin() + static_cast<int64_t>(std::min(all.size(), kLongest)));
  return all.size() > kLongest ? text + "..." : text;
}

}  // namespace euromodal
