// validation.h — losses and figures of an objective on a data set, without gradients, each rank on
// its share of the samples.
#pragma once
#include <cstdint>

#include "core/json.h"
#include "training/data/dataset.h"
#include "training/dist/collectives.h"
#include "training/objective.h"

namespace euromodal {

struct ValidationOptions {
  int64_t max_samples = 256;   // the first ones, in order
  int64_t batch_samples = 64;  // at a time, over all ranks
  int64_t max_bad_samples = 0;
  bool per_sample = false;
};

/// {"validation_loss": ..., "validation_accuracy": ...}; every rank enters, rank 0 gets the
/// figures.
Json run_validation(Objective& objective, const Dataset& data, const ValidationOptions& options,
                    Collectives& world);

}  // namespace euromodal
