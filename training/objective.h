// objective.h — what a stage trains: it owns the model, prepares examples, and turns a batch into
// summed losses. One trainer serves every objective.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/weights/weights.h"
#include "core/config.h"
#include "core/rng.h"
#include "multimodal/batch.h"
#include "training/data/dataset.h"

namespace euromodal {

/// Sums over a batch; divided once, after the all-reduce over ranks and parts.
struct LossSums {
  at::Tensor loss_sum;  // scalar f32 with graph
  double count = 0.0;   // valid tokens (next token), samples (classification, CTC)
  /// name -> {sum, count}: per-kind losses, accuracy; divided by the trainer where it logs.
  std::map<std::string, std::pair<double, double>> metrics;
};

class Objective {
 public:
  virtual ~Objective() = default;
  /// Worker side: sample -> example; augmentation from `rng` (keyed by seed, epoch, sample) only
  /// when `training`.
  virtual Example prepare(const Sample& sample, const Rng& rng, bool training) const = 0;
  /// Sums over the batch, with graph when gradients are on. `training` false: validation, which may
  /// add costlier metrics (character error rate).
  virtual LossSums loss(const Batch& batch, bool training) = 0;
  /// Every parameter by name; the trainer sets requires_grad by the config's `trainable` patterns.
  virtual const std::vector<NamedTensor>& parameters() const = 0;
  /// The trained model as a folder that inference and later stages read.
  virtual void save_model(const std::filesystem::path& dir) const = 0;
};

/// `objective: {type: next_token | classification | ctc, ...}`; a registry in
/// objectives/registry.cpp, one line each.
std::unique_ptr<Objective> make_objective(const Config& config, uint64_t seed, bool deterministic);

}  // namespace euromodal
