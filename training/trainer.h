// trainer.h — one trainer for every stage: objective, data and optimiser come from the run's YAML.
// Every rank runs the same loop.
//
// A step: the loader gives this rank's parts of the global batch; each part goes forward and
// backward; gradients are summed over parts and ranks and divided once by the global count; clip,
// update. In deterministic mode the parts are kept apart and added in part order: the same bits on
// any number of ranks.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "core/config.h"
#include "training/dist/collectives.h"

namespace euromodal {

/// How train() ended.
enum class TrainEnd {
  kDone,
  kStopped
};  // kStopped: a signal, the end of its time, or a file `stop`; a checkpoint was written

/// Exit code of `train` that stopped before its end: the job can go on with --resume auto.
constexpr int kStoppedExit = 3;

struct TrainRequest {
  std::string resume;  // "", "auto" (newest complete checkpoint of run.dir, else from the start) or
                       // a checkpoint's folder
  /// What run.wall_clock_limit counts from.
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
};

TrainEnd train(const Config& config, const TrainRequest& request, Collectives& world);

}  // namespace euromodal
