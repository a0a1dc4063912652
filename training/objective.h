// objective.h — what a stage trains: it owns the model, prepares examples, and turns a batch into
// summed losses. One trainer serves every objective.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/llama.h"
#include "backbone/weights/weights.h"
#include "core/config.h"
#include "core/rng.h"
#include "multimodal/batch.h"
#include "training/data/dataset.h"

namespace euromodal {

/// A figure of the log as a sum and what to divide it by. `sum` is a detached scalar that the
/// trainer reads after backward (no host sync in the loss).
struct Metric {
  std::string name;  // "loss_image", "accuracy", "cer"
  at::Tensor sum;
  double count = 0.0;
};

/// Sums over a batch; divided once, after the all-reduce over ranks and parts.
struct LossSums {
  at::Tensor loss_sum;  // scalar f32, with graph in training; undefined when count is 0
  double count = 0.0;   // what loss_sum is divided by: weights of tokens (next token), samples; a
                        // multiple of 2^-24, so that its sum does not depend on the order
  std::vector<Metric> metrics;
};

class Objective {
 public:
  virtual ~Objective() = default;
  /// Worker side, thread safe: sample -> example; augmentation from `rng` (keyed by seed and global
  /// position) only when `training`. DataError naming what is wrong with the sample.
  virtual Example prepare(const Sample& sample, const Rng& rng, bool training) const = 0;
  /// From here on prepare() transforms pictures and sound by the kernels of `device`, as
  /// Encoder::preprocess_on(), and inputs stay there. Once, before the first prepare().
  virtual void transform_media_on(at::Device /*device*/) {}
  /// `training`: with graph; else validation, with the figures that cost more (error rates).
  virtual LossSums loss(const Batch& batch, bool training) = 0;
  /// Every parameter by name; the trainer sets requires_grad by the config's `trainable` patterns.
  virtual const std::vector<NamedTensor>& parameters() const = 0;
  /// The text backbone that the loss goes through, or null (for block hooks).
  virtual Llama* backbone() { return nullptr; }
  /// Called once, when it is known which parameters are trained: further handles on parameters
  /// whose gradients are summed apart (flat_buffer.h); empty for most.
  virtual std::vector<NamedTensor> make_aliases() { return {}; }
  /// The mean loss of a model that knows nothing, where the weights are pretrained: a first loss
  /// near it means that they were loaded wrongly. Nothing for drawn weights.
  virtual std::optional<double> chance_loss() const { return std::nullopt; }
  /// Operations of a training step on `batch` by the formulas of flops.h, before loss() takes it;
  /// 0: not counted.
  virtual double flops(const Batch&) { return 0.0; }
  /// Whether the model answers records.
  virtual bool answers() const { return false; }
  /// Its words, greedily chosen, at the place of the record's last assistant turn. DataError naming
  /// what is wrong with the sample.
  virtual std::string answer(const Sample&, int64_t /*max_new_tokens*/) const {
    throw Error("this objective gives no answers");
  }
  /// The trained model as a folder that inference and later stages read; complete or absent.
  virtual void save_model(const std::filesystem::path& dir) const = 0;
};

/// `objective: {type: next_token | classification | ctc, ...}`; a registry in
/// objectives/registry.cpp, one line each. Reads every key below `config`.
std::unique_ptr<Objective> make_objective(const Config& config, uint64_t seed, bool deterministic);

}  // namespace euromodal
