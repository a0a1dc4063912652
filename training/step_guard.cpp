// step_guard.cpp — see step_guard.h.
#include "training/step_guard.h"

#include <cmath>

#include "core/error.h"
#include "core/log.h"

namespace euromodal {

StepGuard::StepGuard(int64_t max_bad_steps, std::string checkpoints, bool speaks)
    : max_bad_steps_(max_bad_steps), checkpoints_(std::move(checkpoints)), speaks_(speaks) {}

bool StepGuard::accept(int64_t step, double loss, double norm, double count) {
  if (count == 0.0) {
    if (speaks_) log_warn("step={} skipped: every sample of the batch is bad", step);
    return false;
  }
  if (std::isfinite(loss) && std::isfinite(norm)) return true;
  ++bad_steps_;
  if (speaks_)
    log_warn("step={} skipped: loss {} and gradient norm {} are not both finite ({} of at most {})",
             step, loss, norm, bad_steps_, max_bad_steps_);
  check(bad_steps_ <= max_bad_steps_,
        "step {}: {} steps had a loss or gradient that is not finite, more than max_bad_steps {}; "
        "last checkpoint: {}",
        step, bad_steps_, max_bad_steps_, checkpoints_);
  return false;
}

void StepGuard::check_start(double loss, std::optional<double> chance) const {
  if (chance && loss > 0.9 * *chance && speaks_) {
    log_warn(
        "step=0 loss {:.2f} is what a model that knows nothing has ({:.2f}): were the pretrained "
        "weights loaded from the right folder?",
        loss, *chance);
  }
}

}  // namespace euromodal
