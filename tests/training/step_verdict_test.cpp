// step_verdict_test.cpp — what a step's tensors decide against the same rules as loops over
// doubles, bit for bit: spikes over a window that fills and moves, the clip factor, what is not
// finite.
#include "training/step_verdict.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/rng.h"

namespace euromodal {
namespace {

double verdict_median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double verdict_bound(const std::deque<double>& before, double factor) {
  const double median = verdict_median({before.begin(), before.end()});
  std::vector<double> deviations;
  for (const double x : before) deviations.push_back(std::abs(x - median));
  return median + factor * std::max(1.4826 * verdict_median(deviations), 0.01 * std::abs(median));
}

StepFigures figures_of(const StepDecision& decision) {
  return StepFigures::read({decision.figures_F.const_data_ptr<double>(),
                            static_cast<size_t>(decision.figures_F.numel())});
}

StepDecision judged(StepJudge& judge, float loss_sum, double norm, double count) {
  return judge.judge(at::full({}, loss_sum, at::kFloat), at::full({}, norm, at::kDouble), count);
}

TEST(StepVerdictTest, SpikesAreThoseOfALoopOverDoubles) {
  for (const int64_t window : {4, 5, 20}) {
    constexpr double kFactor = 1.5, kCount = 7.0;
    StepJudge judge({.spike_window = window, .spike_factor = kFactor}, at::kCPU, {}, {});
    std::deque<double> losses, norms;
    int spikes[2] = {0, 0};
    for (uint64_t step = 0; step < 200; ++step) {
      Rng rng = Rng(5).fork("step", step);
      const auto loss_sum = static_cast<float>(14.0 + rng.normal());
      const double norm_sum = 7.0 + rng.normal(), loss = static_cast<double>(loss_sum) / kCount,
                   norm = norm_sum / kCount;
      const StepDecision decision = judged(judge, loss_sum, norm_sum, kCount);
      const StepFigures got = figures_of(decision);
      bool spike = false;
      if (static_cast<int64_t>(losses.size()) == window) {
        EXPECT_EQ(got.norm_bound, verdict_bound(norms, kFactor));
        EXPECT_EQ(got.loss_bound, verdict_bound(losses, kFactor));
        const bool norm_out = norm > got.norm_bound;
        spike = norm_out || loss > got.loss_bound;
        if (spike) ++spikes[norm_out ? 1 : 0];
      }
      EXPECT_EQ(got.loss_sum, static_cast<double>(loss_sum));
      EXPECT_EQ(got.norm, norm);
      ASSERT_EQ(got.verdict, spike ? StepVerdict::kSpike : StepVerdict::kApply) << step;
      EXPECT_EQ(*decision.apply.const_data_ptr<int32_t>(), spike ? 0 : 1);
      if (spike) continue;
      for (const auto& [values, value] : {std::pair{&losses, loss}, {&norms, norm}}) {
        values->push_back(value);
        if (static_cast<int64_t>(values->size()) > window) values->pop_front();
      }
    }
    EXPECT_GT(spikes[0], 3);
    EXPECT_GT(spikes[1], 3);
  }
}

TEST(StepVerdictTest, GoesOnFromTheStepsBefore) {
  const StepJudge::Options options{.spike_window = 6, .spike_factor = 1.0};
  StepJudge whole(options, at::kCPU, {}, {});
  std::vector<double> losses, norms;
  int spikes = 0;
  for (uint64_t step = 0; step < 60; ++step) {
    Rng rng = Rng(6).fork("step", step);
    const auto loss = static_cast<float>(2.0 + rng.normal());
    const double norm = 1.0 + 0.3 * rng.normal();
    StepJudge again(options, at::kCPU, losses, norms);
    const StepFigures want = figures_of(judged(whole, loss, norm, 1.0)),
                      got = figures_of(judged(again, loss, norm, 1.0));
    ASSERT_EQ(got.verdict, want.verdict) << step;
    if (want.verdict == StepVerdict::kSpike) ++spikes;
    if (want.verdict != StepVerdict::kApply) continue;
    losses.push_back(static_cast<double>(loss));
    norms.push_back(norm);
    if (losses.size() > 6) {
      losses.erase(losses.begin());
      norms.erase(norms.begin());
    }
  }
  EXPECT_GT(spikes, 5);
}

TEST(StepVerdictTest, TheGradientIsDividedByTargetsAndClipped) {
  for (const double clip_norm : {0.0, 0.5, 1e9}) {
    StepJudge judge({.clip_norm = clip_norm}, at::kCPU, {}, {});
    for (const double norm_sum : {1e-3, 3.7, 812.25}) {
      for (const double count : {1.0, 3.0, 1.0 / 3.0}) {
        const double norm = norm_sum / count,
                     clip = clip_norm > 0.0 && norm > clip_norm ? clip_norm / norm : 1.0;
        EXPECT_EQ(*judged(judge, 1.0F, norm_sum, count).factor.const_data_ptr<float>(),
                  static_cast<float>(clip / count))
            << clip_norm << " " << norm_sum << " " << count;
      }
    }
  }
}

TEST(StepVerdictTest, WhatIsNotFiniteIsNotApplied) {
  const double nan = std::nan(""), inf = INFINITY;
  for (const int64_t window : {int64_t{0}, int64_t{4}}) {
    StepJudge judge({.spike_window = window}, at::kCPU, {}, {});
    for (const auto& [loss, norm] :
         {std::pair{nan, 1.0}, {inf, 1.0}, {-inf, 1.0}, {1.0, nan}, {1.0, inf}, {nan, nan}}) {
      const StepDecision decision = judged(judge, static_cast<float>(loss), norm, 2.0);
      EXPECT_EQ(figures_of(decision).verdict, StepVerdict::kNotFinite);
      EXPECT_EQ(*decision.apply.const_data_ptr<int32_t>(), 0);
    }
    for (int step = 0; step < 9; ++step)  // what was not finite is not remembered
      EXPECT_EQ(figures_of(judged(judge, 1.0F, 1.0, 2.0)).verdict, StepVerdict::kApply);
  }
}

}  // namespace
}  // namespace euromodal
