// deadlines.cpp — see deadlines.h.
#include "training/deadlines.h"

namespace euromodal {
namespace {

double deadline_seconds(const Config& config, const std::string& key, double otherwise) {
  const double value = config.f64(key, otherwise);
  check<ConfigError>(value > 0.0, "{}: expected seconds above 0, got {}", config.where(key), value);
  return value;
}

}  // namespace

PhaseDeadlines PhaseDeadlines::parse(const Config& run) {
  PhaseDeadlines out;
  const bool short_form = run.has("step_deadline_s");
  out.data = out.step = deadline_seconds(run, "step_deadline_s", out.step);
  if (!run.has("deadlines")) return out;
  const Config phases = run.child("deadlines");
  for (const char* key : {"data", "step"}) {
    check<ConfigError>(!short_form || !phases.has(key),
                       "{}: run.step_deadline_s says the same: give one of the two",
                       phases.where(key));
  }
  out.setup = deadline_seconds(phases, "setup", out.setup);
  out.data = deadline_seconds(phases, "data", out.data);
  out.step = deadline_seconds(phases, "step", out.step);
  out.checkpoint = deadline_seconds(phases, "checkpoint", out.checkpoint);
  out.validation = deadline_seconds(phases, "validation", out.validation);
  out.model = deadline_seconds(phases, "model", out.model);
  out.shutdown = deadline_seconds(phases, "shutdown", out.shutdown);
  return out;
}

}  // namespace euromodal
