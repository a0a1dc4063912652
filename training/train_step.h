// train_step.h — one step of a run: from a batch to changed parameters. The device decides whether
// the update is applied and how it is clipped (step_verdict.h); the host queues work and learns
// what was decided one step later, when it is about to queue the next update: by then the step
// before is over, or nearly, and the device has a whole forward and backward pass to do. On the CPU
// the host knows at once.
//
//   step.run(7, batch, rates, metrics, votes);   // learns of step 6
//   step.settle();                               // of step 7: before anything that depends on it
//
// What is seen from outside does not depend on when the host learns: settle() comes before rows of
// the metrics, validations, checkpoints and the end.
#pragma once
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "training/batch_gradient.h"
#include "training/checkpoint.h"
#include "training/late_read.h"
#include "training/step_verdict.h"

namespace euromodal {

/// What the host learned of a step.
struct StepOutcome {
  int64_t step = 0;
  double count = 0.0;  // targets
  StepFigures figures;
  double loss() const { return count > 0.0 ? figures.loss_sum / count : 0.0; }  // mean
};

struct TrainStepOptions {
  BatchGradientOptions gradient;
  GuardOptions guard;
  double clip_norm = 0.0;
  std::optional<bool>
      late{};  // the host learns a step later; nothing: where parameters are on GPUs
};

class TrainStep {
 public:
  using Learned = std::function<void(const StepOutcome&)>;
  /// All of it outlives this object. `learned`: called for every step in order, before the guard
  /// ends the run because of it.
  TrainStep(const RunParts& parts, Objective& objective, Collectives& world,
            const TrainStepOptions& options, Learned learned);

  /// Every rank. Group i of the optimiser at lr · lr_factors[i]; figures of this rank's samples go
  /// to `metrics`; `votes` are added up over ranks. Error of StepGuard::skipped(), of this step or
  /// the one before.
  void run(int64_t step, const std::vector<PartBatches>& batch,
           const std::vector<double>& lr_factors, RunMetrics& metrics, std::span<double> votes);
  /// Every rank, at the same place: waits until the host knows of every step so far.
  void settle();
  /// The last step that the host knows of.
  const StepOutcome& last() const { return last_; }

 private:
  struct Waiting {  // for the host
    int64_t step = 0;
    double count = 0.0;
    LateRead figures;
    std::string samples;  // of this rank
  };
  std::string all_samples(const std::string& mine) const;

  RunParts parts_;
  Collectives& world_;
  BatchGradient gradient_;
  StepJudge judge_;
  bool late_;
  Learned learned_;
  std::optional<Waiting> waiting_;
  StepOutcome last_;
};

}  // namespace euromodal
