// step_verdict.h — whether a step's update is applied, and what its summed gradient is multiplied
// with: decided where the parameters lie, from numbers that lie there, so that no step waits for
// the host. The host reads the figures later (late_read.h) and does the bookkeeping
// (step_guard.h).
//
// A spike: the loss or the gradient norm x of a step, against the last `window` applied ones, is
//   x > median + factor · max(1.4826 · median(|x_i - median|), 0.01 · |median|)
// (1.4826 makes the median deviation of a normal distribution its standard deviation). The first
// `window` steps are all applied.
#pragma once
#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

namespace euromodal {

enum class StepVerdict { kApply, kNoTargets, kNotFinite, kSpike };

/// What was decided, as tensors on the parameters' device.
struct StepDecision {
  at::Tensor figures_F;  // f64, for StepFigures
  at::Tensor factor;     // f32 [1]: 1 / targets, less where the norm is clipped
  at::Tensor apply;      // i32 [1]: where it is 0 nothing may change
};

/// The figures on the host.
struct StepFigures {
  double loss_sum = 0.0, norm = 0.0;  // norm: of the mean gradient, before clipping
  StepVerdict verdict = StepVerdict::kNoTargets;
  double norm_bound = 0.0, loss_bound = 0.0;  // above: a spike; 0 where none are looked for
  /// Of figures_F.
  static StepFigures read(std::span<const double> figures_F);
};

class StepJudge {
 public:
  struct Options {
    double clip_norm = 0.0;    // 0: no clipping
    int64_t spike_window = 0;  // 0: spikes are not looked for
    double spike_factor = 6.0;
  };
  /// `losses`, `norms`: of the last applied steps, oldest first, at most a window (StepGuard has
  /// them); empty at the start of a run.
  StepJudge(const Options& options, at::Device device, std::span<const double> losses,
            std::span<const double> norms);

  /// loss_sum: f32 scalar; gradient_norm: f64 scalar, of the summed gradient; both of all ranks,
  /// the same on each, over `count` > 0 targets. Remembers the step where it is applied.
  StepDecision judge(const at::Tensor& loss_sum, const at::Tensor& gradient_norm, double count);

 private:
  Options options_;
  at::Device device_;
  at::Tensor history_2W_;  // f64: norms and losses of the last applied steps, oldest first
  at::Tensor filled_;      // i64: how many of them there are, at the end
};

}  // namespace euromodal
