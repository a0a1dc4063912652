// batch_gradient.h — forward and backward of this rank's parts of a global batch, and the sum of
// gradients and losses over parts and ranks. In deterministic mode the parts are kept apart and
// added in part order: the same bits on any number of ranks.
#pragma once
#include <span>
#include <vector>

#include "training/data/loader.h"
#include "training/dist/collectives.h"
#include "training/flat_buffer.h"
#include "training/objective.h"
#include "training/run_metrics.h"

namespace euromodal {

/// Of the whole global batch, the same on every rank.
struct BatchSums {
  double loss_sum = 0.0;
  double count = 0.0;  // targets (tokens, samples)
};

class BatchGradient {
 public:
  BatchGradient(Objective& objective, FlatBuffer& buffer, Collectives& world, bool deterministic);

  /// Leaves the sum of the gradients in the flat buffer of every rank. Figures of this rank's
  /// samples go to `metrics`. `votes`: numbers of this rank that are added up over ranks on the
  /// way.
  BatchSums run(const std::vector<PartBatches>& parts, RunMetrics& metrics,
                std::span<double> votes);

 private:
  /// One part; its gradient and loss are added to the flat buffer. Returns the number of targets.
  double run_part(const PartBatches& part, RunMetrics& metrics);

  Objective& objective_;
  FlatBuffer& buffer_;
  Collectives& world_;
  bool deterministic_;
  std::vector<std::vector<float>> part_gradients_;
};

}  // namespace euromodal
