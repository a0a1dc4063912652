// step_guard.h — the host's book of the steps that were skipped: losses and gradients that are not
// finite, and spikes, which stand out from the steps before. What is skipped was decided on the
// device (step_verdict.h) from figures that are the same on every rank; here it is counted, told,
// and the run ended when it was too much. The state is a part of the checkpoint, so that a resumed
// run decides the same.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/json.h"
#include "training/step_verdict.h"

namespace euromodal {

struct GuardOptions {
  int64_t max_bad_steps = 10;  // not finite, in all; one more ends the run
  int64_t spike_window = 0;    // 0: spikes are not looked for
  double spike_factor = 6.0;
  int64_t spike_max = 10;  // spikes among the last `window` steps; one more ends the run
  bool allow_chance_start = false;
  /// `max_bad_steps`, `spike: {window, factor, max}`, `run.allow_chance_start`.
  static GuardOptions parse(const Config& config);
};

class StepGuard {
 public:
  /// `checkpoints`: where the last good state lies, for messages. `speaks`: rank 0 logs.
  StepGuard(const GuardOptions& options, std::string checkpoints, bool speaks);

  /// What was decided of the next step, whose mean loss is `loss`.
  void learn(int64_t step, double loss, const StepFigures& figures);
  /// Logs why a step was skipped, with the samples that were in it; Error when too many were.
  void skipped(int64_t step, StepVerdict verdict, const std::string& samples) const;

  /// The first loss of a run, and that on samples of text alone, against `chance`, what a model
  /// that knows nothing has: a warning when it is near; CheckpointError when the text's is within
  /// 2 % of it, which a pretrained model that was loaded rightly never has (unless
  /// run.allow_chance_start).
  void check_start(double loss, std::optional<double> text_loss, double chance) const;

  int64_t bad_steps() const { return bad_steps_; }
  int64_t spikes() const { return spikes_; }  // in all
  /// Of the last `window` applied steps, oldest first.
  const std::vector<double>& losses() const { return losses_; }
  const std::vector<double>& norms() const { return norms_; }
  Json state() const;
  void load_state(const JsonView& state);

 private:
  GuardOptions options_;
  std::string checkpoints_;
  bool speaks_;
  int64_t bad_steps_ = 0, spikes_ = 0;
  std::vector<double> losses_, norms_;
  std::vector<int64_t> spike_steps_;  // among the last `window` steps
  std::string reason_;                // of the last verdict
};

}  // namespace euromodal
