// train_step_test.cpp — a step whose outcome the host learns one step later against one that it
// learns at once: the same parameters, state, averages, guard and outcomes, bit for bit, with steps
// that are skipped because they are not finite, spikes or without targets; the run ends by the same
// message; and a skipped step changes nothing.
#include "training/train_step.h"

#include <gtest/gtest.h>

#include "core/log.h"
#include "tests/support/temp.h"
#include "tests/training/drawn_step.h"

namespace euromodal {
namespace {

using StepRun = DrawnStep<DrawnGradients>;

class TrainStepTest : public testing::Test {
 protected:
  TrainStepTest() { set_log_level(LogLevel::kError); }
  ~TrainStepTest() override { set_log_level(LogLevel::kInfo); }
};

TEST_F(TrainStepTest, AHostThatLearnsLaterGivesTheSameBits) {
  StepRun at_once(at::kCPU, drawn_guard_options(), false),
      later(at::kCPU, drawn_guard_options(), true);
  for (int step = 0; step < 16; ++step) {
    const std::vector<at::Tensor> before = at_once.bits();
    at_once.run();
    later.run();
    ASSERT_TRUE(same_bits(at_once.bits(), later.bits())) << "step " << step;
    const StepVerdict verdict = at_once.step.last().figures.verdict;
    const bool applied = drawn_applied(step);
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
    StepRun run(at::kCPU, options, late);
    for (int step = 0; step < 5; ++step) run.run();
    const auto over = [&] {
      run.run();  // step 5: the second one
      if (late) run.run();
    };
    EXPECT_TRUE(throws_with<Error>(over, {"step 5: 2 steps", "max_bad_steps 1", "run/checkpoints"}))
        << late;
    EXPECT_EQ(run.known.back().step, 5);
  }
  StepRun run(at::kCPU, options, true);
  for (int step = 0; step < 6; ++step) run.run();
  EXPECT_TRUE(throws_with<Error>([&] { run.step.settle(); }, {"step 5: 2 steps"}));
}

}  // namespace
}  // namespace euromodal
