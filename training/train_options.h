// train_options.h — what a run's YAML says apart from objective, data and optimiser: read once,
// before anything is built.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "training/data/loader.h"
#include "training/deadlines.h"
#include "training/schedule.h"
#include "training/straggler.h"

namespace euromodal {

struct TrainOptions {
  std::filesystem::path dir;  // run.dir
  uint64_t seed = 0;          // run.seed
  int64_t threads =
      0;  // run.threads; 0: cores of this process's affinity mask / ranks on this node
  bool deterministic =
      false;  // run.deterministic: the same bits on any number of ranks, packed or not
  PhaseDeadlines deadlines;    // run.deadlines, run.step_deadline_s
  StragglerOptions straggler;  // run.straggler
  LoaderOptions loader;        // batch: {samples, parts, workers, pack, max_tokens, prefetch_steps,
                               // max_bad_samples}
  std::vector<std::string> trainable;  // name patterns
  double clip_norm = 0.0;              // 0: no clipping
  int64_t steps = 0;                   // 0: only writes the model as it starts
  int64_t log_every = 10;
  int64_t max_bad_steps =
      10;  // steps with a loss or gradient that is not finite are skipped; more of them end the run
  int64_t checkpoint_every = 0, checkpoint_keep = 2;       // 0: only at the end
  int64_t validation_every = 0, validation_samples = 256;  // 0: none

  static TrainOptions parse(const Config& config);
};

}  // namespace euromodal
