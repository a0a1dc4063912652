// step_guard.h — whether a step's update is applied. Skipped: losses and gradients that are not
// finite, and spikes, which stand out from the steps before. Decides from figures that are the same
// on every rank, so every rank decides the same; its state is a part of the checkpoint, so a
// resumed run decides the same too.
//
// A spike: the loss or the gradient norm x of a step, against the last `window` applied ones, is
//   x > median + factor · max(1.4826 · median(|x_i - median|), 0.01 · |median|)
// (1.4826 makes the median deviation of a normal distribution its standard deviation). The first
// `window` steps are all applied.
#pragma once
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "core/config.h"
#include "core/json.h"

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

  enum class Verdict { kApply, kNoTargets, kNotFinite, kSpike };
  /// Mean loss and gradient norm of a step with `count` targets.
  Verdict judge(int64_t step, double loss, double norm, double count);
  /// Logs why a step was skipped, with the samples that were in it; Error when too many were.
  void skipped(int64_t step, Verdict verdict, const std::string& samples) const;

  /// The first loss of a run, and that on samples of text alone, against `chance`, what a model
  /// that knows nothing has: a warning when it is near; CheckpointError when the text's is within
  /// 2 % of it, which a pretrained model that was loaded rightly never has (unless
  /// run.allow_chance_start).
  void check_start(double loss, std::optional<double> text_loss, double chance) const;

  int64_t bad_steps() const { return bad_steps_; }
  int64_t spikes() const { return spikes_; }  // in all
  Json state() const;
  void load_state(const JsonView& state);

 private:
  bool stands_out(const std::deque<double>& before, double value, double* bound) const;

  GuardOptions options_;
  std::string checkpoints_;
  bool speaks_;
  int64_t bad_steps_ = 0, spikes_ = 0;
  std::deque<double> losses_, norms_;  // of the last `window` applied steps
  std::deque<int64_t> spike_steps_;    // among the last `window` steps
  std::string reason_;                 // of the last verdict
};

}  // namespace euromodal
