// schedule.cpp — see schedule.h.
#include "training/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace euromodal {

namespace {

double schedule_share(const Config& config, const std::string& key) {
  const double value = config.f64(key);
  check<ConfigError>(value >= 0.0 && value <= 1.0, "{}: expected a share in [0, 1], got {}",
                     config.where(key), value);
  return value;
}

}  // namespace

Schedule Schedule::parse(const Config& config, int64_t steps) {
  Shape shape;
  const std::string type =
      config.choice("type", {"constant", "trapezoid", "wsd", "linear", "cosine", "inverse_sqrt"});
  shape.warmup = schedule_share(config, "warmup");
  if (type == "constant") return {shape, steps};
  if (type == "inverse_sqrt") {
    check<ConfigError>(shape.warmup > 0.0,
                       "{}: inverse_sqrt falls from the end of the warm-up on; expected a share "
                       "above 0",
                       config.where("warmup"));
    shape.kind = Kind::kInverseSqrt;
    return {shape, steps};
  }
  shape.final = schedule_share(config, "final");
  if (type == "linear") shape.kind = Kind::kLinear;
  if (type == "cosine") shape.kind = Kind::kCosine;
  if (type == "trapezoid" || type == "wsd") {
    shape.kind = Kind::kTrapezoid;
    shape.constant = schedule_share(config, "constant");
    check<ConfigError>(shape.warmup + shape.constant <= 1.0 + 1e-9,
                       "{}: warmup {} and constant {} together exceed the run", config.where(),
                       shape.warmup, shape.constant);
  }
  return {shape, steps};
}

double Schedule::factor(int64_t step) const {
  const double n = static_cast<double>(std::max<int64_t>(steps_, 1));
  const double done = static_cast<double>(step) + 1.0;  // so that the first step is not at zero
  const double rise = shape_.warmup * n;
  if (done < rise) return done / rise;
  if (shape_.kind == Kind::kConstant) return 1.0;
  if (shape_.kind == Kind::kInverseSqrt)
    return std::sqrt(std::max(rise, 1.0) / std::max(done, 1.0));
  const double start = rise + (shape_.kind == Kind::kTrapezoid ? shape_.constant * n : 0.0);
  const double way = n - start;
  if (done <= start || way <= 0.0) return 1.0;
  const double share = std::min(1.0, (done - start) / way);
  if (shape_.kind == Kind::kCosine)
    return shape_.final + (1.0 - shape_.final) * 0.5 * (1.0 + std::cos(std::numbers::pi * share));
  return std::lerp(1.0, shape_.final, share);  // exactly `final` at the end
}

}  // namespace euromodal
