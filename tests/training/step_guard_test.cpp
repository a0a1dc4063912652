// step_guard_test.cpp — which steps are skipped, when skipping ends the run, and that a guard goes
// on from its stored state as if nothing had happened. Decisions are those of StepJudge.
#include "training/step_guard.h"

#include <cmath>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/log.h"
#include "core/rng.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

using Verdict = StepVerdict;

/// What decides and what keeps the book, as a run has them.
class Guarded {
 public:
  explicit Guarded(const GuardOptions& options, const std::string& checkpoints = "")
      : guard_(options, checkpoints, false), options_(options) {}
  void load_state(const JsonView& state) {
    guard_.load_state(state);
    judge_.reset();
  }
  Verdict judge(int64_t step, double loss, double norm, double count) {
    StepFigures figures;
    if (count > 0.0) {
      if (!judge_)
        judge_.emplace(StepJudge::Options{.spike_window = options_.spike_window,
                                          .spike_factor = options_.spike_factor},
                       at::kCPU, guard_.losses(), guard_.norms());
      const at::Tensor figures_F = judge_
                                       ->judge(at::full({}, loss * count, at::kFloat),
                                               at::full({}, norm * count, at::kDouble), count)
                                       .figures_F;
      figures = StepFigures::read(
          {figures_F.const_data_ptr<double>(), static_cast<size_t>(figures_F.numel())});
    }
    guard_.learn(step, count > 0.0 ? figures.loss_sum / count : 0.0, figures);
    return figures.verdict;
  }
  void skipped(int64_t step, Verdict verdict, const std::string& samples) const {
    guard_.skipped(step, verdict, samples);
  }
  int64_t spikes() const { return guard_.spikes(); }
  Json state() const { return guard_.state(); }

 private:
  StepGuard guard_;
  GuardOptions options_;
  std::optional<StepJudge> judge_;
};

GuardOptions guard_options() {
  GuardOptions out;
  out.max_bad_steps = 2;
  out.spike_window = 20;
  out.spike_factor = 6.0;
  out.spike_max = 2;
  return out;
}

/// A quiet run's loss and gradient norm.
std::pair<double, double> guard_quiet(int64_t step) {
  Rng rng = Rng(3).fork("quiet", static_cast<uint64_t>(step));
  return {2.0 + 0.05 * rng.normal(), 1.0 + 0.1 * rng.normal()};
}

TEST(StepGuardTest, SpikesOfLossAndNormAreSkippedOnceTheWindowIsFull) {
  Guarded guard(guard_options(), "checkpoints");
  EXPECT_EQ(guard.judge(0, 50.0, 90.0, 8.0), Verdict::kApply);  // the window is not full yet
  for (int64_t step = 1; step < 40; ++step) {
    const auto [loss, norm] = guard_quiet(step);
    EXPECT_EQ(guard.judge(step, loss, norm, 8.0), Verdict::kApply) << step;
  }
  EXPECT_EQ(guard.judge(40, 2.0, 5.0, 8.0), Verdict::kSpike);
  EXPECT_EQ(guard.judge(41, 4.0, 1.0, 8.0), Verdict::kSpike);
  EXPECT_EQ(guard.judge(42, 2.0, 1.0, 8.0), Verdict::kApply);
  EXPECT_EQ(guard.judge(43, 0.1, 0.01, 8.0), Verdict::kApply);  // small is no spike
  EXPECT_EQ(guard.spikes(), 2);
}

TEST(StepGuardTest, TooManySpikesInAWindowEndTheRun) {
  Guarded guard(guard_options(), "run/checkpoints");
  int64_t step = 0;
  const auto quiet = [&](int64_t count) {
    for (const int64_t end = step + count; step < end; ++step) {
      const auto [loss, norm] = guard_quiet(step);
      guard.judge(step, loss, norm, 8.0);
    }
  };
  const auto spike = [&] {
    ASSERT_EQ(guard.judge(step, 2.0, 9.0, 8.0), Verdict::kSpike);
    guard.skipped(step++, Verdict::kSpike, "s1 s2");
  };
  quiet(25);
  spike();
  spike();
  quiet(20);  // those two are forgotten
  spike();
  spike();
  EXPECT_TRUE(
      throws_with<Error>(spike, {"3 of the last 20 steps", "spike.max 2", "run/checkpoints"}));
}

TEST(StepGuardTest, WhatIsNotFiniteIsSkippedAndBounded) {
  Guarded guard(guard_options(), "run/checkpoints");
  const double nan = std::nan(""), inf = INFINITY;
  EXPECT_EQ(guard.judge(0, nan, 1.0, 8.0), Verdict::kNotFinite);
  guard.skipped(0, Verdict::kNotFinite, "a");
  EXPECT_EQ(guard.judge(1, 1.0, inf, 8.0), Verdict::kNotFinite);
  guard.skipped(1, Verdict::kNotFinite, "a");
  EXPECT_EQ(guard.judge(2, 0.0, 0.0, 0.0), Verdict::kNoTargets);
  guard.skipped(2, Verdict::kNoTargets, "");
  EXPECT_EQ(guard.judge(3, nan, nan, 8.0), Verdict::kNotFinite);
  EXPECT_TRUE(throws_with<Error>([&] { guard.skipped(3, Verdict::kNotFinite, "a"); },
                                 {"max_bad_steps 2", "run/checkpoints"}));
}

TEST(StepGuardTest, StoredStateGoesOnTheSame) {
  GuardOptions options = guard_options();
  options.spike_factor = 0.7;  // so that many steps are spikes
  options.spike_max = 1000;
  Guarded whole(options);
  for (int64_t step = 0; step < 120; ++step) {
    Guarded again(options);
    const Json stored = Json::parse(whole.state().dump());  // as it goes through the file
    again.load_state(JsonView(stored, "state.json: guard"));
    const auto [loss, norm] = guard_quiet(step);
    EXPECT_EQ(whole.judge(step, loss, norm, 8.0), again.judge(step, loss, norm, 8.0)) << step;
    EXPECT_EQ(whole.state(), again.state());
  }
  EXPECT_GT(whole.spikes(), 5);
}

TEST(StepGuardTest, AFirstLossAtChanceLevelIsAFault) {
  const double chance = std::log(128000.0);
  const StepGuard guard(guard_options(), "", false);
  guard.check_start(5.0, 2.5, chance);
  guard.check_start(11.5, std::nullopt, chance);  // media through an untrained adapter may be bad
  guard.check_start(11.5, 3.0, chance);
  EXPECT_TRUE(throws_with<CheckpointError>([&] { guard.check_start(5.0, 11.7, chance); },
                                           {"11.700", "11.760", "allow_chance_start"}));
  GuardOptions options = guard_options();
  options.allow_chance_start = true;
  StepGuard(options, "", false).check_start(11.7, 11.7, chance);
}

TEST(StepGuardTest, OptionsAreTyped) {
  const Config config = Config::parse("{run: {}, spike: {factor: 4.0}, max_bad_steps: 3}");
  const GuardOptions options = GuardOptions::parse(config);
  EXPECT_EQ(options.spike_window, 100);
  EXPECT_EQ(options.spike_factor, 4.0);
  EXPECT_EQ(options.max_bad_steps, 3);
  EXPECT_EQ(GuardOptions::parse(Config::parse("{run: {}}")).spike_window, 0);
  const Config wrong = Config::parse("{run: {}, spike: {window: 1}}");
  EXPECT_TRUE(throws_with<ConfigError>([&] { GuardOptions::parse(wrong); }, {"spike.window", "1"}));
}

}  // namespace
}  // namespace euromodal
