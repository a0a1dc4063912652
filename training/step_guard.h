// step_guard.h — whether a step's update is applied: losses and gradients that are not finite are
// skipped and bounded; a first loss at chance level is reported. Decides from figures that are the
// same on every rank, so every rank decides the same.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace euromodal {

class StepGuard {
 public:
  /// `checkpoints`: where the last good state lies, for messages. `speaks`: rank 0 logs.
  StepGuard(int64_t max_bad_steps, std::string checkpoints, bool speaks);

  /// Mean loss and gradient norm of a step with `count` targets; true: apply the update. Error
  /// beyond max_bad_steps.
  bool accept(int64_t step, double loss, double norm, double count);
  /// The first loss of a run against `chance`, that of a model that knows nothing.
  void check_start(double loss, std::optional<double> chance) const;

 private:
  int64_t max_bad_steps_, bad_steps_ = 0;
  std::string checkpoints_;
  bool speaks_;
};

}  // namespace euromodal
