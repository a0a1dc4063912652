// device_run.h — training steps of the tiny world on any device, for tests: the objects of a run,
// made in the trainer's order, and batches of given samples.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "backbone/device.h"
#include "multimodal/model.h"
#include "tests/training/tiny_world.h"
#include "training/data/datasets.h"
#include "training/train_step.h"

namespace euromodal {

constexpr const char* kDeviceAdamW =
    "optimizer=[{params: [\"*\"], type: adamw, lr: 0.01, betas: [0.9, 0.95], eps: 1.0e-8, "
    "weight_decay: 0.1}]";

class DeviceRun {
 public:
  /// `objective`, `changes`: as TinyWorld::config() and --set take them.
  DeviceRun(const TinyWorld& tiny, const std::string& objective,
            const std::vector<std::string>& changes, at::Device device)
      : config_(Config::load(tiny.config(objective, "device_run"), changes)),
        objective_(make_objective(config_.child("objective"), 7, /*deterministic=*/false)),
        data_(open_datasets(config_, "data")),
        groups_(parse_groups(config_, "optimizer", 6)),
        trainable_(
            select_trainable(objective_->parameters(), config_.strs("trainable"), "trainable")) {
    for (const NamedTensor& p : trainable_) p.tensor.requires_grad_(true);
    move_parameters(objective_->parameters(), device);
    buffer_.emplace(trainable_, assign_groups(trainable_, groups_), groups_,
                    objective_->make_aliases(), FlatOptions{.bucket_bytes = 4000});
    optimizer_.emplace(*buffer_, groups_, false);
    average_.emplace(*buffer_, 0.9);
    GuardOptions guard;
    guard.spike_window = 4;
    guard_.emplace(guard, "checkpoints", false);
    step_.emplace(RunParts{*buffer_, *optimizer_, *guard_, &*average_}, *objective_, *world_,
                  TrainStepOptions{.gradient = {}, .guard = guard, .clip_norm = 1.0},
                  [this](const StepOutcome& known) { outcomes.push_back(known); });
  }

  /// The samples of a step, as the loader gives them; a micro-batch for each list.
  std::vector<PartBatches> prepare(const std::vector<std::vector<int64_t>>& batches) {
    PartBatches part{.part = 0, .batches = {}};
    for (const std::vector<int64_t>& indices : batches) {
      std::vector<Example> examples;
      for (const int64_t index : indices)
        examples.push_back(objective_->prepare(data_->get(index), Rng(3), /*training=*/true));
      part.batches.push_back(collate(std::move(examples), /*per_sample=*/false));
    }
    return {part};
  }
  void run(const std::vector<PartBatches>& batch) {
    std::vector<double> votes;
    step_->run(now_++, batch, std::vector<double>(groups_.size(), 1.0), metrics, votes);
  }
  void settle() { step_->settle(); }
  Objective& objective() { return *objective_; }
  /// What is trained and its running average, on the CPU.
  std::vector<NamedTensor> values() const {
    std::vector<NamedTensor> out;
    for (const NamedTensor& p : trainable_)
      out.push_back({p.name, p.tensor.detach().cpu().to(at::kFloat)});
    for (const OwnedTensor& owned : average_->tensors(*buffer_))
      out.push_back({"average of " + owned.name, owned.own.cpu()});
    return out;
  }

  std::vector<StepOutcome> outcomes;
  RunMetrics metrics;

 private:
  Config config_;
  std::unique_ptr<Objective> objective_;
  std::shared_ptr<const Dataset> data_;
  std::vector<GroupOptions> groups_;
  std::vector<NamedTensor> trainable_;
  std::unique_ptr<Collectives> world_ = make_single();
  std::optional<FlatBuffer> buffer_;
  std::optional<Optimizer> optimizer_;
  std::optional<WeightAverage> average_;
  std::optional<StepGuard> guard_;
  std::optional<TrainStep> step_;
  int64_t now_ = 0;
};

/// A run on text and stored features of pictures, LoRA and an adapter: what a host without the
/// media library can train. Changes to "adapters"; the samples 0 to 3 are pictures, 4 to 27 text.
inline std::vector<std::string> without_media(const TinyWorld& tiny) {
  tiny.run(tiny.config("text", "text"));
  const std::string dir = tiny.path("").string(),
                    model = fmt::format(
                        "{{backbone: {{model: {0}/text/model, lora: {{rank: 2, alpha: 4, dropout: "
                        "0.1, targets: [q_proj, o_proj, down_proj]}}}}, image: {{placeholder: "
                        "\"<image>\", encoder: {{random: {{config: {0}/image.json, preprocessor: "
                        "{0}/image_pre.json}}, features: last}}, adapter: {{type: pool, grid: [2, "
                        "2], hidden: 8, layer_norm: true, output: {{rms: true}}}}}}}}",
                        dir);
  const auto built = MultimodalModel::from_config(Config::parse(model), 7);
  at::manual_seed(2);
  std::vector<StoredFeatures> features;
  std::string records;
  for (int64_t i = 0; i < 4; ++i) {
    features.push_back({at::randn({16, 16}), {.frames = 1, .height = 4, .width = 4}});
    records += fmt::format(
        R"({{"id": "f{0}", "messages": [{{"role": "user", "parts": [{{"kind": "image", "features": "features.safetensors#features.{0}"}}, " ?"]}}, {{"role": "assistant", "parts": ["{1}"]}}]}})",
        i, kTinyWords[i]);
    records += "\n";
  }
  const FeatureFile file = feature_file(features, built->feature_identity(Modality::kImage));
  save_safetensors(tiny.path("features.safetensors"), file.tensors, file.options);
  write_text_atomic(tiny.path("stored.jsonl"), records + read_text(tiny.path("text.jsonl")));
  return {"objective.model=" + model, "data=[{path: " + dir + "/stored.jsonl, repeat: 1.0}]",
          "trainable=[\"*.lora_*\", \"adapter.*\"]", kDeviceAdamW};
}

}  // namespace euromodal
