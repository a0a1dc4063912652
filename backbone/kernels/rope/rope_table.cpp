// rope_table.cpp — frequencies of every RoPE type and their tables. Reference: transformers 5.23
// modeling_rope_utils. Linear: Chen et al. 2023; dynamic: NTK-aware scaling; llama3: Llama 3.1;
// yarn: Peng et al. 2023; longrope: Ding et al. 2024, of which one list of factors is read. N head
// width, P positions. All tensors f32 and computed by ATen, as the reference does: at position
// 32,000 one last bit of a frequency is 2 milliradians.
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/kernels/rope/rope.h"
#include "core/error.h"

namespace euromodal {

namespace {

constexpr double kTwoPi = 6.283185307179586;

// theta^(2i/N), i = 0 .. N/2-1
at::Tensor rope_powers(double theta, int64_t head_dim) {
  const at::Tensor even = at::arange(0, head_dim, 2, at::kLong).to(at::kFloat);
  return at::pow(theta, even / static_cast<double>(head_dim));
}

at::Tensor rope_llama3(const RopeConfig& c, const at::Tensor& freq) {
  const double context = static_cast<double>(c.original_max_positions);
  const double low_wavelength = context / c.low_freq_factor;
  const double high_wavelength = context / c.high_freq_factor;
  const at::Tensor wavelength = kTwoPi / freq;
  const at::Tensor scaled = at::where(wavelength > low_wavelength, freq / c.factor, freq);
  const at::Tensor smooth =
      (context / wavelength - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor);
  const at::Tensor blend = (1 - smooth) * scaled / c.factor + smooth * scaled;
  const at::Tensor medium = (wavelength < high_wavelength)
                                .logical_not()
                                .logical_and((wavelength > low_wavelength).logical_not());
  return at::where(medium, blend, scaled);
}

at::Tensor rope_yarn(const RopeConfig& c) {
  const double dim = static_cast<double>(c.head_dim);
  // the dimension that turns `rotations` times within the original context
  const auto dimension = [&](double rotations) {
    return dim * std::log(static_cast<double>(c.original_max_positions) / (rotations * kTwoPi)) /
           (2 * std::log(c.theta));
  };
  double low = dimension(c.beta_fast), high = dimension(c.beta_slow);
  if (c.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;  // a ramp of width zero
  const at::Tensor ramp =
      ((at::arange(0, c.head_dim / 2, at::kFloat) - low) / (high - low)).clamp(0, 1);
  const at::Tensor keep = 1 - ramp;
  const at::Tensor powers = rope_powers(c.theta, c.head_dim);
  const at::Tensor extrapolated = at::reciprocal(powers);
  const at::Tensor interpolated = at::reciprocal(c.factor * powers);
  return interpolated * (1 - keep) + extrapolated * keep;
}

double rope_yarn_scale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double rope_attention_factor(const RopeConfig& c) {
  if (c.type != "yarn") return 1.0;
  if (c.attention_factor >= 0.0) return c.attention_factor;
  if (c.mscale != 0.0 && c.mscale_all_dim != 0.0)
    return rope_yarn_scale(c.factor, c.mscale) / rope_yarn_scale(c.factor, c.mscale_all_dim);
  return rope_yarn_scale(c.factor, 1.0);
}

at::Tensor rope_frequencies(const RopeConfig& c, int64_t sequence_length) {
  if (c.type == "yarn") return rope_yarn(c);
  double theta = c.theta;
  if (c.type == "dynamic") {
    const double dim = static_cast<double>(c.head_dim);
    const double longest = static_cast<double>(c.max_positions);
    const double length = std::max(static_cast<double>(sequence_length), longest);
    theta *= std::pow(c.factor * length / longest - (c.factor - 1), dim / (dim - 2));
  }
  const at::Tensor freq = at::reciprocal(rope_powers(theta, c.head_dim));
  if (c.type == "linear") return freq / c.factor;
  if (c.type == "llama3") return rope_llama3(c, freq);
  if (c.type == "longrope") {
    check<ConfigError>(static_cast<int64_t>(c.divisors.size()) == c.head_dim / 2,
                       "RoPE: {} divisors of {} frequencies", c.divisors.size(), c.head_dim / 2);
    return at::reciprocal(rope_powers(theta, c.head_dim) * at::tensor(c.divisors, at::kFloat));
  }
  check<ConfigError>(
      c.type == "default" || c.type == "dynamic",
      "rope_type is '{}'; known are default, linear, dynamic, llama3, yarn, longrope", c.type);
  return freq;
}

}  // namespace

RopeTable rope_table(const RopeConfig& config, int64_t positions, int64_t sequence_length) {
  check<ConfigError>(config.head_dim > 0 && config.head_dim % 2 == 0,
                     "RoPE: head_dim is {}, expected an even number above 0", config.head_dim);
  check<ConfigError>(positions >= 0, "RoPE: {} positions, expected 0 or more", positions);
  const c10::NoGradGuard no_grad;
  const at::Tensor freq = rope_frequencies(config, sequence_length);
  const at::Tensor half_PH =
      at::arange(0, positions, at::kLong).to(at::kFloat).unsqueeze(1) * freq.unsqueeze(0);
  const at::Tensor angle_PN = at::cat({half_PH, half_PH}, 1);
  const double factor = rope_attention_factor(config);
  return {angle_PN.cos() * factor, angle_PN.sin() * factor};
}

}  // namespace euromodal
