// trainer.h — one trainer for every stage: objective, data and optimiser come from the run's YAML.
// Every rank runs the same loop.
//
// A step: the loader gives this rank's parts of the global batch; each part goes forward and
// backward; gradients are summed over parts and ranks and divided once by the global count; clip,
// update. In deterministic mode the parts are kept apart and added in part order: the same bits on
// any number of ranks.
#pragma once
#include <string>
#include <vector>

#include "core/config.h"
#include "training/dist/collectives.h"

namespace euromodal {

/// How train() ended.
enum class TrainEnd {
  kDone,
  kStopped
};  // kStopped: SIGTERM, SIGINT or SIGUSR1; a checkpoint was written

/// Exit code of `train` after a signal: the job can go on with --resume auto.
constexpr int kStoppedExit = 3;

struct TrainRequest {
  std::string resume;  // "", "auto" (newest complete checkpoint of run.dir, else from the start) or
                       // a checkpoint's folder
};

TrainEnd train(const Config& config, const TrainRequest& request, Collectives& world);

}  // namespace euromodal
