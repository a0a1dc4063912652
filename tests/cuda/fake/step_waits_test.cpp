// step_waits_test.cpp — training steps on the stand-in for a GPU (tests/support/fake_gpu.h): text,
// pictures and sound, LoRA, adapters, encoders, distillation, guard, clipping, average. The host
// waits for nothing but the outcome of the step before, and what is computed is what the CPU
// computes. A step that is skipped changes nothing.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/log.h"
#include "tests/support/fake_gpu.h"
#include "tests/support/tensor_near.h"
#include "tests/training/device_run.h"
#include "tests/training/drawn_step.h"

namespace euromodal {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;
using testing_support::fake_gpu;
using testing_support::take_event_waits;
using testing_support::take_host_waits;
using testing_support::tensor_near;

struct WaitsCase {
  const char *name, *objective;
  std::vector<std::string> changes;
  std::vector<std::vector<int64_t>> batches;
};

// Samples of "adapters": 24 of text, 24 pictures, 24 sounds.
const std::vector<WaitsCase> kCases = {
    {"adapters", "adapters", {}, {{48, 49, 0}, {25, 1}}},
    {"a text model", "text", {}, {{0, 1, 2}, {3}}},
    {"LoRA",
     "adapters",
     {"objective.model.backbone.lora={rank: 2, alpha: 4, dropout: 0.1, targets: [q_proj, "
      "down_proj]}",
      "objective.model.image.encoder.lora={rank: 2, alpha: 4, dropout: 0.1, targets: [q_proj, "
      "fc1]}",
      "objective.kind_weights={audio: 2}", "objective.z_loss=1.0e-3",
      "objective.model.backbone.checkpointing=layer", "trainable=[\"*.lora_*\", \"adapter.*\"]",
      kDeviceAdamW},
     {{48, 24, 0}, {49, 1}}},
    {"everything",
     "adapters",
     {"objective.prefix_cache_mb=0", "trainable=[\"*\"]", kDeviceAdamW},
     {{48, 24, 0}}},
    {"float8", "adapters", {"objective.model.backbone.weights=float8"}, {{48, 24, 0}, {1}}},
    {"distilled",
     "adapters",
     {"data=[{path: DIR/spoken.jsonl}]", "objective.distill={ce_weight: 0.5}", kDeviceAdamW},
     {{0, 2, 1}, {3, 4}}},
    {"pictures", "pictures", {kDeviceAdamW}, {{0, 1, 2, 3}, {4, 5}}},
};

class StepWaitsTest : public testing::Test {
 protected:
  StepWaitsTest() : tiny_(dir_) { set_log_level(LogLevel::kError); }
  ~StepWaitsTest() override { set_log_level(LogLevel::kInfo); }

  std::vector<std::string> changes(const WaitsCase& test) const {
    std::vector<std::string> out = test.changes;
    for (std::string& change : out)
      if (const size_t at = change.find("DIR"); at != std::string::npos)
        change.replace(at, 3, tiny_.path("").string());
    return out;
  }
  TempDir dir_;
  TinyWorld tiny_;
};

void expect_same_run(DeviceRun& gpu, DeviceRun& host) {
  ASSERT_EQ(gpu.outcomes.size(), host.outcomes.size());
  for (size_t i = 0; i < host.outcomes.size(); ++i) {
    const StepOutcome &want = host.outcomes[i], &got = gpu.outcomes[i];
    EXPECT_NEAR(got.loss(), want.loss(), 1e-3 * std::abs(want.loss())) << i;
    EXPECT_EQ(got.figures.verdict, want.figures.verdict) << i;
    EXPECT_NEAR(got.figures.norm, want.figures.norm, 1e-2 * want.figures.norm) << i;
  }
  EXPECT_LT(gpu.outcomes.back().loss(), gpu.outcomes.front().loss());
  const std::vector<NamedTensor> want = host.values(), got = gpu.values();
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_TRUE(tensor_near(got[i].tensor, want[i].tensor, {.abs = 5e-3, .rel = 5e-3}))
        << want[i].name;
  EXPECT_EQ(gpu.metrics.sum("tokens"), host.metrics.sum("tokens"));
}

TEST_F(StepWaitsTest, NothingButTheOutcomeOfTheStepBefore) {
  tiny_.models();
  for (const WaitsCase& test : kCases) {
    SCOPED_TRACE(test.name);
    DeviceRun host(tiny_, test.objective, changes(test), at::kCPU),
        gpu(tiny_, test.objective, changes(test), fake_gpu());
    for (int step = 0; step < 6; ++step) {
      host.run(host.prepare(test.batches));
      const std::vector<PartBatches> batch = gpu.prepare(test.batches);
      take_host_waits();
      take_event_waits();
      gpu.run(batch);
      EXPECT_THAT(take_host_waits(), IsEmpty()) << "step " << step;
      EXPECT_EQ(take_event_waits(), step == 0 ? 0 : 1) << "step " << step;
    }
    EXPECT_EQ(gpu.outcomes.size(), 5U);
    gpu.settle();
    EXPECT_THAT(take_host_waits(), IsEmpty());
    expect_same_run(gpu, host);
  }
}

TEST_F(StepWaitsTest, StoredFeaturesWaitForNothingEither) {
  const std::vector<std::string> changes = without_media(tiny_);
  DeviceRun host(tiny_, "adapters", changes, at::kCPU), gpu(tiny_, "adapters", changes, fake_gpu());
  for (int step = 0; step < 6; ++step) {
    host.run(host.prepare({{0, 1, 9}, {2, 14}}));
    const std::vector<PartBatches> batch = gpu.prepare({{0, 1, 9}, {2, 14}});
    take_host_waits();
    gpu.run(batch);
    EXPECT_THAT(take_host_waits(), IsEmpty()) << "step " << step;
  }
  gpu.settle();
  expect_same_run(gpu, host);
}

TEST_F(StepWaitsTest, TheCtcLossOfLibTorchWaits) {
  DeviceRun gpu(tiny_, "sounds", {kDeviceAdamW}, fake_gpu());
  const std::vector<PartBatches> batch = gpu.prepare({{0, 1}, {2}});
  take_host_waits();
  gpu.run(batch);
  EXPECT_EQ(take_host_waits()["aten::_ctc_loss"], 2);  // it takes lengths of the host
}

/// A number that is read in the middle of a step is seen.
class Nosy final : public DrawnGradients {
 public:
  LossSums loss(const Batch& batch, bool training) override {
    LossSums out = DrawnGradients::loss(batch, training);
    EXPECT_GT(out.loss_sum.item<float>(), 0.0F);
    return out;
  }
};

TEST_F(StepWaitsTest, OneNumberReadIsOneWait) {
  DrawnStep<DrawnGradients> plain(fake_gpu(), {});
  DrawnStep<Nosy> nosy(fake_gpu(), {});
  for (int step = 0; step < 3; ++step) {
    take_host_waits();
    plain.run();
    EXPECT_THAT(take_host_waits(), IsEmpty());
    nosy.run();
    EXPECT_THAT(take_host_waits(), ElementsAre(Pair("aten::_local_scalar_dense", 1)));
  }
}

// Bits of a GPU's step are not those of the CPU (sums of the norm): here only that a skipped one
// leaves every bit, and that what is applied is near.
TEST_F(StepWaitsTest, SkippedStepsChangeNothing) {
  const GuardOptions options = drawn_guard_options();
  DrawnStep<DrawnGradients> gpu(fake_gpu(), options), host(at::kCPU, options);
  for (int step = 0; step < 16; ++step) {
    const std::vector<at::Tensor> before = gpu.bits();
    gpu.run();
    host.run();
    gpu.step.settle();
    EXPECT_EQ(same_bits(before, gpu.bits()), !drawn_applied(step)) << "step " << step;
    EXPECT_EQ(gpu.known.back().figures.verdict, host.known.back().figures.verdict) << step;
    const std::vector<at::Tensor> got = gpu.bits(), want = host.bits();
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_TRUE(
          tensor_near(got[i].to(at::kFloat), want[i].to(at::kFloat), {.abs = 1e-4, .rel = 1e-2}))
          << "step " << step << " tensor " << i;
  }
  EXPECT_EQ(gpu.optimizer.steps(), host.optimizer.steps());
  EXPECT_EQ(gpu.guard.bad_steps(), host.guard.bad_steps());
}

// Unlike above, the host learns of a step while the next one is queued.
TEST_F(StepWaitsTest, LearningLaterGivesTheSameBits) {
  const GuardOptions options = drawn_guard_options();
  DrawnStep<DrawnGradients> later(fake_gpu(), options), at_once(fake_gpu(), options, false);
  for (int step = 0; step < 16; ++step) {
    later.run();
    at_once.run();
    EXPECT_TRUE(same_bits(later.bits(), at_once.bits())) << "step " << step;
  }
  later.step.settle();
  EXPECT_EQ(later.guard.state(), at_once.guard.state());
  EXPECT_EQ(later.optimizer.steps(), at_once.optimizer.steps());
}

}  // namespace
}  // namespace euromodal
