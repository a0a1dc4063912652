// schedule.h — the factor of the learning rate by step, relative to the run's length. With n steps
// and step s (from 0): a linear rise over warmup·n steps, then
//   constant   1
//   trapezoid  1 for constant·n steps, then linear down to `final`; also known as wsd (warm-up,
//              stable, decay; Hägele et al. 2024, arXiv:2405.18392: "cooldown")
//   linear     linear down to `final`
//   cosine     half a cosine down to `final`
//   inverse_sqrt  1 / sqrt(steps done in units of the warm-up) (Vaswani et al. 2017,
//              arXiv:1706.03762); has no `final`, needs a warm-up
// The last step of trapezoid, linear and cosine runs at `final` exactly.
#pragma once
#include <cstdint>

#include "core/config.h"

namespace euromodal {

class Schedule {
 public:
  enum class Kind { kConstant, kTrapezoid, kLinear, kCosine, kInverseSqrt };
  struct Shape {
    Kind kind = Kind::kConstant;
    double warmup = 0.0;    // share of the steps, [0, 1]
    double constant = 0.0;  // trapezoid: share of the steps at 1; warmup + constant <= 1
    double final = 1.0;     // factor of the last step
  };
  Schedule(const Shape& shape, int64_t steps) : shape_(shape), steps_(steps) {}
  /// `schedule: {type: ..., warmup: ..., constant: ..., final: ...}`; ConfigError naming the key.
  static Schedule parse(const Config& config, int64_t steps);
  /// In (0, 1] for 0 <= step < steps (0 where final is 0).
  double factor(int64_t step) const;

 private:
  Shape shape_;
  int64_t steps_;
};

}  // namespace euromodal
