// gradcheck.h — gradients of an operator against central differences, in double.
//
//   EXPECT_TRUE(gradcheck([&](const std::vector<at::Tensor>& in) { return linear(in[0], in[1], {},
//   rows); }, {x_TI, weight_OI}));
#pragma once
#include <cmath>
#include <functional>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

namespace euromodal::testing_support {

/// Normal draws that depend on the seed alone.
inline at::Tensor randn(at::IntArrayRef sizes, uint64_t seed, at::ScalarType dtype = at::kFloat) {
  return at::randn(sizes, at::detail::createCPUGenerator(seed), at::dtype(at::kDouble)).to(dtype);
}

struct GradcheckOptions {
  double step = 1e-6;
  double abs = 1e-7;
  double rel = 1e-5;
};

/// `inputs` are f64; every element of every input is moved up and down by `step`, the result
/// projected on fixed random weights.
inline testing::AssertionResult gradcheck(
    const std::function<at::Tensor(const std::vector<at::Tensor>&)>& f,
    std::vector<at::Tensor> inputs, GradcheckOptions options = {}) {
  for (at::Tensor& input : inputs)
    input = input.detach().to(at::kDouble).clone().requires_grad_(true);
  const at::Tensor y = f(inputs);
  const at::Tensor projection = randn(y.sizes(), 97, at::kDouble);
  (y * projection).sum().backward();
  const c10::NoGradGuard no_grad;
  const auto value = [&] { return (f(inputs) * projection).sum().item<double>(); };
  int64_t faults = 0;
  std::string lines;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor grad =
        inputs[i].grad().defined() ? inputs[i].grad().contiguous() : at::zeros_like(inputs[i]);
    double* x = inputs[i].mutable_data_ptr<double>();
    for (int64_t e = 0; e < inputs[i].numel(); ++e) {
      const double before = x[e];
      x[e] = before + options.step;
      const double up = value();
      x[e] = before - options.step;
      const double down = value();
      x[e] = before;
      const double want = (up - down) / (2 * options.step);
      const double got = grad.const_data_ptr<double>()[e];
      if (std::abs(got - want) <= options.abs + options.rel * std::abs(want)) continue;
      if (faults++ < 10)
        lines += fmt::format("\n  input {}, element {}: got {:.9g}, difference quotient {:.9g}", i,
                             e, got, want);
    }
  }
  if (faults == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure() << faults << " gradients are wrong:" << lines;
}

/// The same storage bytes (NaN, -0 and all), shape and dtype.
inline testing::AssertionResult same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type())
    return testing::AssertionFailure() << "shape or dtype differ";
  const at::Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  const auto* p = static_cast<const uint8_t*>(x.const_data_ptr());
  const auto* q = static_cast<const uint8_t*>(y.const_data_ptr());
  for (size_t i = 0; i < x.nbytes(); ++i)
    if (p[i] != q[i])
      return testing::AssertionFailure()
             << "bytes differ first in element " << i / x.element_size() << " of " << x.numel()
             << "; largest difference "
             << (x.to(at::kDouble) - y.to(at::kDouble)).abs().max().item<double>();
  return testing::AssertionSuccess();
}

}  // namespace euromodal::testing_support

namespace euromodal {
using testing_support::gradcheck;
using testing_support::GradcheckOptions;
using testing_support::randn;
using testing_support::same_bits;
}  // namespace euromodal
