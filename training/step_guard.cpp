// step_guard.cpp — see step_guard.h.
#include "training/step_guard.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "training/config_count.h"

namespace euromodal {
namespace {

double guard_median(std::vector<double> values) {  // not empty
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void guard_remember(std::deque<double>& values, double value, int64_t window) {
  values.push_back(value);
  while (static_cast<int64_t>(values.size()) > window) values.pop_front();
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

bool StepGuard::stands_out(const std::deque<double>& before, double value, double* bound) const {
  if (options_.spike_window == 0 || static_cast<int64_t>(before.size()) < options_.spike_window)
    return false;
  const double median = guard_median({before.begin(), before.end()});
  std::vector<double> deviations;
  for (const double x : before) deviations.push_back(std::abs(x - median));
  *bound = median + options_.spike_factor * std::max(1.4826 * guard_median(std::move(deviations)),
                                                     0.01 * std::abs(median));
  return value > *bound;
}

StepGuard::Verdict StepGuard::judge(int64_t step, double loss, double norm, double count) {
  while (!spike_steps_.empty() && spike_steps_.front() <= step - options_.spike_window)
    spike_steps_.pop_front();
  if (count == 0.0) {
    reason_ = "every sample of the batch is bad";
    return Verdict::kNoTargets;
  }
  if (!std::isfinite(loss) || !std::isfinite(norm)) {
    ++bad_steps_;
    reason_ = fmt::format("loss {} and gradient norm {} are not both finite ({} of at most {})",
                          loss, norm, bad_steps_, options_.max_bad_steps);
    return Verdict::kNotFinite;
  }
  double bound = 0.0;
  const bool norm_out = stands_out(norms_, norm, &bound);
  if (norm_out || stands_out(losses_, loss, &bound)) {
    ++spikes_;
    spike_steps_.push_back(step);
    reason_ = fmt::format("{} {:.4g} is a spike, the last {} steps allow {:.4g} ({} of at most {})",
                          norm_out ? "gradient norm" : "loss", norm_out ? norm : loss,
                          options_.spike_window, bound, spike_steps_.size(), options_.spike_max);
    return Verdict::kSpike;
  }
  if (options_.spike_window > 0) {
    guard_remember(losses_, loss, options_.spike_window);
    guard_remember(norms_, norm, options_.spike_window);
  }
  return Verdict::kApply;
}

void StepGuard::skipped(int64_t step, Verdict verdict, const std::string& samples) const {
  if (speaks_) log_warn("step={} skipped: {}; samples: {}", step, reason_, samples);
  check(verdict != Verdict::kNotFinite || bad_steps_ <= options_.max_bad_steps,
        "step {}: {} steps had a loss or gradient that is not finite, more than max_bad_steps {}; "
        "last checkpoint: {}",
        step, bad_steps_, options_.max_bad_steps, checkpoints_);
  check(
      verdict != Verdict::kSpike || static_cast<int64_t>(spike_steps_.size()) <= options_.spike_max,
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
    while (static_cast<int64_t>(values.size()) > options_.spike_window) values.pop_front();
  };
  read("losses", losses_);
  read("norms", norms_);
  read("spike_steps", spike_steps_);
}

}  // namespace euromodal
