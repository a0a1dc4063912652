// train_step_test.cpp — a step whose outcome the host learns one step later against one that it
// learns at once: the same parameters, state, averages, guard and outcomes, bit for bit, with steps
// that are skipped because they are not finite, spikes or without targets; the run ends by the same
// message; and a skipped step changes nothing.
#include "training/train_step.h"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/log.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

/// The gradient of a sample is a drawn one; sample 5 has one that is not finite although its loss
/// is, sample 11 a large one, sample 3 a loss that is not finite.
class DrawnGradients final : public Objective {
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
    for (const Example& example : batch.examples) {
      at::manual_seed(static_cast<uint64_t>(100 + example.index));
      at::Tensor total = at::full({}, 0.5 + 0.01 * static_cast<double>(example.index % 7));
      for (const NamedTensor& p : parameters_) {
        const at::Tensor none = p.tensor.to(at::kFloat) - p.tensor.detach().to(at::kFloat),
                         gradient = at::randn(none.sizes()) * (example.index == 11 ? 50.0 : 1.0);
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

std::vector<GroupOptions> step_groups() {
  GroupOptions adamw, muon;
  adamw.lr = 3e-3;
  adamw.weight_decay = 0.1;
  muon.type = GroupOptions::Type::kMuon;
  muon.lr = 0.02;
  return {adamw, muon};
}

/// One run's objects, made in the trainer's order.
struct StepRun {
  explicit StepRun(bool late, const GuardOptions& guard_options)
      : buffer(parameters(), {1, 0, 0}, step_groups(), {}, {}),
        optimizer(buffer, step_groups(), false),
        guard(guard_options, "run/checkpoints", false),
        average(buffer, 0.9),
        world(make_single()),
        step({buffer, optimizer, guard, &average}, objective, *world,
             {.gradient = {}, .guard = guard_options, .clip_norm = 1.0, .late = late},
             [this](const StepOutcome& outcome) {
               known.push_back(outcome);
               known_in.push_back(now);
             }) {}

  const std::vector<NamedTensor>& parameters() {
    for (const NamedTensor& p : objective.parameters()) p.tensor.requires_grad_(true);
    return objective.parameters();
  }
  /// Sample `now`, two of them in one pass; none in step 8.
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
  /// Values, master values, averages and state.
  std::vector<at::Tensor> bits() {
    std::vector<at::Tensor> out;
    for (const NamedTensor& p : objective.parameters()) out.push_back(p.tensor.detach().clone());
    for (const auto& owned : {buffer.master(), optimizer.state(), average.tensors(buffer)})
      for (const OwnedTensor& tensor : owned) out.push_back(tensor.own.clone());
    return out;
  }

  DrawnGradients objective;
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

bool same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (!a[i].equal(b[i])) return false;
  return a.size() == b.size();
}

GuardOptions step_guard_options() {
  GuardOptions out;
  out.spike_window = 6;
  out.spike_factor = 20.0;
  return out;
}

class TrainStepTest : public testing::Test {
 protected:
  TrainStepTest() { set_log_level(LogLevel::kError); }
  ~TrainStepTest() override { set_log_level(LogLevel::kInfo); }
};

TEST_F(TrainStepTest, AHostThatLearnsLaterGivesTheSameBits) {
  StepRun at_once(false, step_guard_options()), later(true, step_guard_options());
  for (int step = 0; step < 16; ++step) {
    const std::vector<at::Tensor> before = at_once.bits();
    at_once.run();
    later.run();
    ASSERT_TRUE(same_bits(at_once.bits(), later.bits())) << "step " << step;
    const StepVerdict verdict = at_once.step.last().figures.verdict;
    const bool applied = step != 3 && step != 5 && step != 8 && step != 11;
    EXPECT_EQ(verdict, applied      ? StepVerdict::kApply
                       : step == 8  ? StepVerdict::kNoTargets
                       : step == 11 ? StepVerdict::kSpike
                                    : StepVerdict::kNotFinite)
        << step;
    EXPECT_EQ(same_bits(before, at_once.bits()), !applied) << "step " << step;
  }
  EXPECT_EQ(later.known.size(), 15U);
  later.step.settle();
  later.step.settle();  // nothing is left
  ASSERT_EQ(later.known.size(), at_once.known.size());
  for (size_t i = 0; i < at_once.known.size(); ++i) {
    const StepOutcome &a = at_once.known[i], &b = later.known[i];
    EXPECT_EQ(a.step, static_cast<int64_t>(i));
    EXPECT_EQ(b.step, a.step);
    EXPECT_EQ(fmt::format("{} {} {}", b.figures.loss_sum, b.figures.norm, b.count),
              fmt::format("{} {} {}", a.figures.loss_sum, a.figures.norm, a.count));
    EXPECT_EQ(b.figures.verdict, a.figures.verdict);
    EXPECT_EQ(at_once.known_in[i], a.step);
    EXPECT_EQ(later.known_in[i], a.step + 1) << "learned while the next one is queued";
  }
  EXPECT_EQ(at_once.optimizer.steps(), 12);
  EXPECT_EQ(later.optimizer.steps(), 12);
  EXPECT_EQ(later.guard.state(), at_once.guard.state());
  EXPECT_EQ(at_once.guard.bad_steps(), 2);
  EXPECT_EQ(at_once.guard.spikes(), 1);
  EXPECT_EQ(later.metrics.sum("seen").second, at_once.metrics.sum("seen").second);
}

TEST_F(TrainStepTest, TooManyBadStepsEndBothByTheSameMessage) {
  GuardOptions options;
  options.max_bad_steps = 1;
  for (const bool late : {false, true}) {
    StepRun run(late, options);
    for (int step = 0; step < 5; ++step) run.run();
    const auto over = [&] {
      run.run();  // step 5: the second one
      if (late) run.run();
    };
    EXPECT_TRUE(throws_with<Error>(over, {"step 5: 2 steps", "max_bad_steps 1", "run/checkpoints"}))
        << late;
    EXPECT_EQ(run.known.back().step, 5);
  }
  StepRun run(true, options);
  for (int step = 0; step < 6; ++step) run.run();
  EXPECT_TRUE(throws_with<Error>([&] { run.step.settle(); }, {"step 5: 2 steps"}));
}

}  // namespace
}  // namespace euromodal
