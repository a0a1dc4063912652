// step_guard.cpp — see step_guard.h.
#include "training/step_guard.h"

#include "core/error.h"
#include "core/log.h"
#include "training/config_count.h"

namespace euromodal {
namespace {

/// The last `window` of them stay.
template <typename T>
void guard_trim(std::vector<T>& values, int64_t window) {
  const auto count = static_cast<int64_t>(values.size());
  if (count > window) values.erase(values.begin(), values.end() - window);
}

}  // namespace

GuardOptions GuardOptions::parse(const Config& config) {
  GuardOptions out;
  out.max_bad_steps = config_count(config, "max_bad_steps", out.max_bad_steps, 0);
  out.allow_chance_start = config.child("run").boolean("allow_chance_start", false);
  if (config.has("spike")) {
    const Config spike = config.child("spike");
    out.spike_window = config_count(spike, "window", 100, 4);
    out.spike_factor = spike.f64("factor", out.spike_factor);
    check<ConfigError>(out.spike_factor > 0.0, "{}: expected a number above 0, got {}",
                       spike.where("factor"), out.spike_factor);
    out.spike_max = config_count(spike, "max", out.spike_max, 0);
  }
  return out;
}

StepGuard::StepGuard(const GuardOptions& options, std::string checkpoints, bool speaks)
    : options_(options), checkpoints_(std::move(checkpoints)), speaks_(speaks) {}

void StepGuard::learn(int64_t step, double loss, const StepFigures& figures) {
  std::erase_if(spike_steps_, [&](int64_t s) { return s <= step - options_.spike_window; });
  const double norm = figures.norm;
  switch (figures.verdict) {
    case StepVerdict::kNoTargets:
      reason_ = "every sample of the batch is bad";
      return;
    case StepVerdict::kNotFinite:
      ++bad_steps_;
      reason_ = fmt::format("loss {} and gradient norm {} are not both finite ({} of at most {})",
                            loss, norm, bad_steps_, options_.max_bad_steps);
      return;
    case StepVerdict::kSpike: {
      ++spikes_;
      spike_steps_.push_back(step);
      const bool norm_out = norm > figures.norm_bound;
      reason_ =
          fmt::format("{} {:.4g} is a spike, the last {} steps allow {:.4g} ({} of at most {})",
                      norm_out ? "gradient norm" : "loss", norm_out ? norm : loss,
                      options_.spike_window, norm_out ? figures.norm_bound : figures.loss_bound,
                      spike_steps_.size(), options_.spike_max);
      return;
    }
    case StepVerdict::kApply:
      break;
  }
  losses_.push_back(loss);
  norms_.push_back(norm);
  guard_trim(losses_, options_.spike_window);
  guard_trim(norms_, options_.spike_window);
}

void StepGuard::skipped(int64_t step, StepVerdict verdict, const std::string& samples) const {
  if (speaks_) log_warn("step={} skipped: {}; samples: {}", step, reason_, samples);
  check(verdict != StepVerdict::kNotFinite || bad_steps_ <= options_.max_bad_steps,
        "step {}: {} steps had a loss or gradient that is not finite, more than max_bad_steps {}; "
        "last checkpoint: {}",
        step, bad_steps_, options_.max_bad_steps, checkpoints_);
  check(verdict != StepVerdict::kSpike ||
            static_cast<int64_t>(spike_steps_.size()) <= options_.spike_max,
        "step {}: {} of the last {} steps were spikes, more than spike.max {}; last checkpoint: {}",
        step, spike_steps_.size(), options_.spike_window, options_.spike_max, checkpoints_);
}

void StepGuard::check_start(double loss, std::optional<double> text_loss, double chance) const {
  check<CheckpointError>(
      options_.allow_chance_start || !text_loss || *text_loss < 0.98 * chance,
      "step 0: the loss {:.3f} on text alone is that of a model that knows nothing ({:.3f}): were "
      "the pretrained weights loaded from the right folder? (run.allow_chance_start: true trains "
      "on)",
      text_loss.value_or(0.0), chance);
  if (speaks_ && loss > 0.9 * chance)
    log_warn(
        "step=0 loss {:.2f} is what a model that knows nothing has ({:.2f}): were the pretrained "
        "weights loaded from the right folder?",
        loss, chance);
}

Json StepGuard::state() const {
  return {{"bad_steps", bad_steps_},
          {"spikes", spikes_},
          {"losses", losses_},
          {"norms", norms_},
          {"spike_steps", spike_steps_}};
}

void StepGuard::load_state(const JsonView& state) {
  bad_steps_ = state.i64("bad_steps");
  spikes_ = state.i64("spikes");
  const auto read = [&](const char* key, auto& values) {
    const auto found = state.raw().find(key);
    check<CheckpointError>(found != state.raw().end() && found->is_array(),
                           "{}: {}: expected a list", state.what(), key);
    values.clear();
    for (const Json& value : *found) {
      check<CheckpointError>(value.is_number(), "{}: {}: expected numbers", state.what(), key);
      values.push_back(value.get<typename std::decay_t<decltype(values)>::value_type>());
    }
    guard_trim(values, options_.spike_window);
  };
  read("losses", losses_);
  read("norms", norms_);
  read("spike_steps", spike_steps_);
}

}  // namespace euromodal
