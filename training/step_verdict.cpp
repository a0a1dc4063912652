// step_verdict.cpp — see step_verdict.h. Operators on a handful of numbers in f64, each rounded by
// itself: the same bits on the CPU as a loop over doubles. W window, F figures.
#include "training/step_verdict.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "backbone/kernels/to_device.h"
#include "core/error.h"

namespace euromodal {
namespace {

constexpr int64_t kFigures = 5;

/// median_2 and bound_2 of history_2W.
at::Tensor verdict_bounds(const at::Tensor& history_2W, double factor) {
  const auto median = [](const at::Tensor& x_2W) {
    return std::get<0>(x_2W.sort(1)).select(1, x_2W.size(1) / 2);
  };
  const at::Tensor middle_2 = median(history_2W),
                   deviation_2 = median((history_2W - middle_2.unsqueeze(1)).abs());
  return middle_2 + at::maximum(deviation_2 * 1.4826, middle_2.abs() * 0.01) * factor;
}

}  // namespace

StepFigures StepFigures::read(std::span<const double> figures_F) {
  check(static_cast<int64_t>(figures_F.size()) == kFigures, "{} figures of a step, expected {}",
        figures_F.size(), kFigures);
  return {figures_F[0], figures_F[1], static_cast<StepVerdict>(static_cast<int>(figures_F[2])),
          figures_F[3], figures_F[4]};
}

StepJudge::StepJudge(const Options& options, at::Device device, std::span<const double> losses,
                     std::span<const double> norms)
    : options_(options), device_(device) {
  const int64_t W = options_.spike_window;
  if (W == 0) return;
  check(losses.size() == norms.size() && static_cast<int64_t>(losses.size()) <= W,
        "{} losses and {} norms for a window of {} steps", losses.size(), norms.size(), W);
  std::vector<double> history(static_cast<size_t>(2 * W), 0.0);
  std::copy(norms.begin(), norms.end(), history.begin() + W - static_cast<int64_t>(norms.size()));
  std::copy(losses.begin(), losses.end(), history.end() - static_cast<int64_t>(losses.size()));
  history_2W_ = to_device(at::tensor(history, at::kDouble).view({2, W}), device);
  filled_ =
      at::full({}, static_cast<int64_t>(losses.size()), at::TensorOptions(device).dtype(at::kLong));
}

StepDecision StepJudge::judge(const at::Tensor& loss_sum, const at::Tensor& gradient_norm,
                              double count) {
  const at::NoGradGuard no_grad;
  // A tensor of one number: a division by a plain number is a product with its inverse on a GPU.
  const auto number = [&](double value) {
    return at::full({}, value, at::TensorOptions(device_).dtype(at::kDouble));
  };
  const at::Tensor targets = number(count), sum = loss_sum.to(at::kDouble), loss = sum / targets,
                   norm = gradient_norm / targets, zero = number(0.0);
  const at::Tensor finite = loss.isfinite().logical_and(norm.isfinite());
  at::Tensor apply = finite, bounds_2 = at::stack({zero, zero});
  if (const int64_t W = options_.spike_window; W > 0) {
    const at::Tensor now_2 = at::stack({norm, loss});
    bounds_2 = verdict_bounds(history_2W_, options_.spike_factor);
    const at::Tensor spike = (now_2 > bounds_2).any().logical_and(filled_ >= W);
    apply = finite.logical_and(spike.logical_not());
    const at::Tensor next_2W =
        at::cat({history_2W_.narrow(1, 1, W - 1), now_2.unsqueeze(1)}, /*dim=*/1);
    history_2W_ = at::where(apply, next_2W, history_2W_);
    filled_ = (filled_ + apply).clamp_max(W);
  }
  const auto code = [&](StepVerdict verdict) { return number(static_cast<double>(verdict)); };
  const at::Tensor verdict =
      at::where(apply, code(StepVerdict::kApply),
                at::where(finite, code(StepVerdict::kSpike), code(StepVerdict::kNotFinite)));
  const at::Tensor one = number(1.0);
  at::Tensor clip = one;
  if (options_.clip_norm > 0.0) {
    const at::Tensor largest = number(options_.clip_norm);
    clip = at::where(norm > largest, largest / norm, one);
  }
  return {.figures_F = at::cat({at::stack({sum, norm, verdict}), bounds_2}),
          .factor = (clip / targets).to(at::kFloat).view({1}),
          .apply = apply.to(at::kInt).view({1})};
}

}  // namespace euromodal
