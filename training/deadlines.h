// deadlines.h — how long each phase of a run may stand still before the watchdog ends it:
// run.deadlines and run.step_deadline_s.
#pragma once
#include "core/config.h"

namespace euromodal {

/// Seconds without any progress (a phase, collective or transfer that begins or ends).
struct PhaseDeadlines {
  double setup = 1800.0;  // MPI, models, data, resume; a start of 256 nodes is silent for minutes
  double data = 600.0;    // waiting for a step's samples
  double step = 600.0;    // forward, backward, update
  double checkpoint = 1800.0, validation = 1800.0, model = 1800.0;
  double shutdown = 900.0;

  /// `run` is the map run: of the YAML. run.step_deadline_s is run.deadlines.{data, step}; giving a
  /// value both ways is a ConfigError.
  static PhaseDeadlines parse(const Config& run);
};

}  // namespace euromodal
