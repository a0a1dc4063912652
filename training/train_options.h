// train_options.h — what a run's YAML says apart from objective, data and optimiser: read once,
// before anything is built.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "training/checkpointer.h"
#include "training/data/loader.h"
#include "training/deadlines.h"
#include "training/step_guard.h"
#include "training/straggler.h"

namespace euromodal {

struct TrainOptions {
  std::filesystem::path dir;  // run.dir
  uint64_t seed = 0;          // run.seed
  int64_t threads =
      0;  // run.threads; 0: cores of this process's affinity mask / ranks on this node
  std::string device = "cpu";  // run.device: cpu, cuda (of this rank's number on its node), cuda:N
  bool deterministic =
      false;  // run.deterministic: the same bits on any number of ranks, packed or not
  PhaseDeadlines deadlines;    // run.deadlines, run.step_deadline_s
  StragglerOptions straggler;  // run.straggler
  LoaderOptions loader;        // batch: {samples | tokens, parts, workers, pack, max_tokens,
                               // prefetch_steps, max_bad_samples}
  bool transform_on_device =
      false;  // batch.transforms: cpu (in the workers), device (on run.device)
  // parallel: {overlap, zero, bucket_mb, shard_frozen}: how ranks share the work; changes no bit of
  // the result
  bool overlap = true;                 // gradients are summed over ranks while backward runs
  int zero = 0;                        // ZeRO stage: 0, 1 or 2 (flat_buffer.h)
  double bucket_mb = 25.0;             // gradients (fp32) that are summed as one array
  bool shard_frozen = false;           // frozen weights once for all ranks of a node
  std::vector<std::string> trainable;  // name patterns
  double clip_norm = 0.0;              // 0: no clipping
  int64_t steps = 0;                   // 0: only writes the model as it starts
  int64_t log_every = 10;
  double peak_tflops = 0.0;  // run.peak_tflops of one rank's device; 0: measured at the start
  bool tensorboard = false, time_split = true;
  GuardOptions guard;            // max_bad_steps, spike
  CheckpointOptions checkpoint;  // checkpoint
  double ema_decay = 0.0;        // ema.decay; 0: no average
  bool ema_is_model = false;     // ema.model: replace (it is the model), beside (model_ema/)
  int64_t validation_every = 0, validation_samples = 256;  // 0: none

  static TrainOptions parse(const Config& config);
};

}  // namespace euromodal
