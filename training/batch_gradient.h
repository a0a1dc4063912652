// batch_gradient.h — forward and backward of this rank's parts of a global batch, and the sum of
// gradients and losses over parts and ranks. In deterministic mode the parts are kept apart and
// added in part order: the same bits on any number of ranks.
#pragma once
#include <span>
#include <vector>

#include "training/data/loader.h"
#include "training/dist/collectives.h"
#include "training/flat_buffer.h"
#include "training/gradient_sync.h"
#include "training/objective.h"
#include "training/run_metrics.h"

namespace euromodal {

/// Of the whole global batch, the same on every rank.
struct BatchSums {
  at::Tensor loss_sum;  // f32 scalar where the parameters lie; nothing has waited for it
  double count = 0.0;   // targets (tokens, samples)
};

struct BatchGradientOptions {
  bool deterministic = false;
  bool overlap = true;
  int64_t parts = 1;  // of a global batch; part p is rank p mod world's
};

class BatchGradient {
 public:
  BatchGradient(Objective& objective, FlatBuffer& buffer, Collectives& world,
                const BatchGradientOptions& options);

  /// Leaves the sum of the gradients in the buffer's buckets. Figures of this rank's samples go to
  /// `metrics`. `votes`: numbers of this rank that are added up over ranks on the way.
  BatchSums run(const std::vector<PartBatches>& parts, RunMetrics& metrics,
                std::span<double> votes);
  /// Of the summed gradient; every rank calls it.
  GradientNorms norms() { return sync_.norms(); }
  const GradientSync& sync() const { return sync_; }

 private:
  /// One part; adds its gradient and returns its loss and number of targets. `last`: of the round.
  BatchSums run_part(const PartBatches& part, RunMetrics& metrics, bool last);
  at::Tensor zero() const;
  /// Over ranks, on the device where the parameters lie on GPUs.
  void sum_over_ranks(const at::Tensor& loss_sum);

  Objective& objective_;
  FlatBuffer& buffer_;
  Collectives& world_;
  BatchGradientOptions options_;
  GradientSync sync_;
};

}  // namespace euromodal
