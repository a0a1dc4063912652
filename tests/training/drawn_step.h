// drawn_step.h — training steps with drawn gradients on any device, for tests: some of them not
// finite, one a spike, one without samples.
#pragma once
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include <ATen/ATen.h>

#include "backbone/device.h"
#include "training/train_step.h"

namespace euromodal {

/// The gradient of a sample is a drawn one; sample 5 has one that is not finite although its loss
/// is, sample 11 a large one, sample 3 a loss that is not finite.
class DrawnGradients : public Objective {
 public:
  DrawnGradients() {
    at::manual_seed(4);
    parameters_ = {{"m", at::randn({3, 4})},
                   {"v", at::randn({7})},
                   {"w", at::randn({5, 2}).to(at::kBFloat16)}};
  }
  Example prepare(const Sample&, const Rng&, bool) const override { return {}; }
  LossSums loss(const Batch& batch, bool) override {
    LossSums out;
    const at::Device device = parameters_.front().tensor.device();
    for (const Example& example : batch.examples) {
      at::manual_seed(static_cast<uint64_t>(100 + example.index));
      at::Tensor total = at::full({}, 0.5 + 0.01 * static_cast<double>(example.index % 7),
                                  at::TensorOptions(device));
      for (const NamedTensor& p : parameters_) {
        const at::Tensor none = p.tensor.to(at::kFloat) - p.tensor.detach().to(at::kFloat);
        const at::Tensor gradient =
            at::randn(none.sizes(), at::TensorOptions(device)) * (example.index == 11 ? 50.0 : 1.0);
        total = total + (none * gradient).sum();
        if (example.index == 5 && p.name == "v") total = total + none[3].abs().sqrt();
      }
      out.loss_sum = out.loss_sum.defined() ? out.loss_sum + total : total;
      if (example.index == 3) out.loss_sum = out.loss_sum + std::nan("");
      out.count += 1.0;
    }
    if (out.count > 0.0) out.metrics = {{"seen", out.loss_sum.detach(), out.count}};
    return out;
  }
  const std::vector<NamedTensor>& parameters() const override { return parameters_; }
  void save_model(const std::filesystem::path&) const override {}

 private:
  std::vector<NamedTensor> parameters_;
};

inline std::vector<GroupOptions> drawn_groups() {
  GroupOptions adamw, muon;
  adamw.lr = 3e-3;
  adamw.weight_decay = 0.1;
  muon.type = GroupOptions::Type::kMuon;
  muon.lr = 0.02;
  return {adamw, muon};
}

inline GuardOptions drawn_guard_options() {
  GuardOptions out;
  out.spike_window = 6;
  out.spike_factor = 20.0;
  return out;
}

/// Of drawn_guard_options().
inline bool drawn_applied(int64_t step) {
  return step != 3 && step != 5 && step != 8 && step != 11;
}

/// One run's objects, made in the trainer's order.
template <typename Drawn>
struct DrawnStep {
  /// `late`: as in TrainStepOptions.
  DrawnStep(at::Device device, const GuardOptions& guard_options, std::optional<bool> late = {})
      : buffer(parameters(device), {1, 0, 0}, drawn_groups(), {}, {}),
        optimizer(buffer, drawn_groups(), false),
        guard(guard_options, "run/checkpoints", false),
        average(buffer, 0.9),
        world(make_single()),
        step({buffer, optimizer, guard, &average}, objective, *world,
             {.gradient = {}, .guard = guard_options, .clip_norm = 1.0, .late = late},
             [this](const StepOutcome& outcome) {
               known.push_back(outcome);
               known_in.push_back(now);
             }) {}

  const std::vector<NamedTensor>& parameters(at::Device device) {
    for (const NamedTensor& p : objective.parameters()) p.tensor.requires_grad_(true);
    move_parameters(objective.parameters(), device);
    return objective.parameters();
  }
  /// Sample `now` and another one; none in step 8.
  void run() {
    PartBatches part{.part = 0, .batches = {}};
    if (now != 8) {
      std::vector<Example> examples(2);
      examples[0].index = now;
      examples[1].index = now + 1000;
      examples[0].id = fmt::format("s{}", now);
      part.batches.push_back(collate(std::move(examples), false));
    }
    std::vector<double> votes;
    step.run(now, {part}, {1.0 / static_cast<double>(now + 1), 1.0}, metrics, votes);
    ++now;
  }
  /// Values, master values, state and averages, copied to the CPU.
  std::vector<at::Tensor> bits() {
    std::vector<at::Tensor> out;
    const auto add = [&](const at::Tensor& x) { out.push_back(x.detach().cpu().clone()); };
    for (const NamedTensor& p : objective.parameters()) add(p.tensor);
    for (const auto& owned : {buffer.master(), optimizer.state(), average.tensors(buffer)})
      for (const OwnedTensor& tensor : owned) add(tensor.own);
    return out;
  }

  Drawn objective;
  FlatBuffer buffer;
  Optimizer optimizer;
  StepGuard guard;
  WeightAverage average;
  std::unique_ptr<Collectives> world;
  RunMetrics metrics;
  int64_t now = 0;
  std::vector<StepOutcome> known;
  std::vector<int64_t> known_in;  // the step that was being run
  TrainStep step;
};

inline bool same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (!a[i].equal(b[i])) return false;
  return a.size() == b.size();
}

}  // namespace euromodal
