// tensor_near.h — gtest comparison of tensors: |got - want| <= abs + rel * |want|, tolerances by
// dtype, the first ten faults with their indices.
//
//   EXPECT_TRUE(tensor_near(y_TD, golden_TD));
//   EXPECT_TRUE(tensor_near(y_TD, golden_TD, {.abs = 1e-6, .rel = 1e-5}));
//   EXPECT_TRUE(tensor_equal(resumed, uninterrupted));   // bitwise
#pragma once
#include <cmath>
#include <string>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

namespace euromodal::testing_support {

struct Tolerance {
  double abs = -1.0;  // negative: by the dtype of `want`
  double rel = -1.0;
};

/// What two correct implementations differ by after a few hundred additions. Whole numbers: exact.
inline Tolerance default_tolerance(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return {1e-10, 1e-9};
    case at::kFloat:
      return {1e-5, 1e-4};
    case at::kHalf:
      return {1e-3, 5e-3};
    case at::kBFloat16:
      return {1e-2, 2e-2};
    default:
      return {0.0, 0.0};
  }
}

namespace detail {

inline std::string index_text(int64_t flat, at::IntArrayRef sizes) {
  std::vector<int64_t> index(sizes.size());
  for (size_t d = sizes.size(); d-- > 0;) {
    index[d] = flat % sizes[d];
    flat /= sizes[d];
  }
  return fmt::format("[{}]", fmt::join(index, ", "));
}

inline std::string sizes_text(const at::Tensor& tensor) {
  return fmt::format("[{}] {}", fmt::join(tensor.sizes(), ", "),
                     c10::toString(tensor.scalar_type()));
}

}  // namespace detail

/// Shapes must agree; dtypes may differ (a bf16 result against an f32 reference: give tolerances or
/// pass the reference in bf16). NaN equals NaN, infinities must agree in sign.
inline testing::AssertionResult tensor_near(const at::Tensor& got, const at::Tensor& want,
                                            Tolerance tolerance = {}) {
  if (!got.defined() || !want.defined())
    return testing::AssertionFailure() << (got.defined() ? "`want`" : "`got`") << " is undefined";
  if (got.sizes() != want.sizes())
    return testing::AssertionFailure() << "shapes differ: got " << detail::sizes_text(got)
                                       << ", want " << detail::sizes_text(want);
  const Tolerance standard = default_tolerance(want.scalar_type());
  const double abs = tolerance.abs >= 0 ? tolerance.abs : standard.abs;
  const double rel = tolerance.rel >= 0 ? tolerance.rel : standard.rel;
  const at::Tensor a = got.detach().cpu().to(at::kDouble).contiguous();
  const at::Tensor b = want.detach().cpu().to(at::kDouble).contiguous();
  const double* pa = a.const_data_ptr<double>();
  const double* pb = b.const_data_ptr<double>();
  int64_t faults = 0;
  double worst = 0.0;
  std::string lines;
  for (int64_t i = 0; i < a.numel(); ++i) {
    if ((std::isnan(pa[i]) && std::isnan(pb[i])) || pa[i] == pb[i]) continue;
    const double difference = std::abs(pa[i] - pb[i]);
    if (std::isfinite(pb[i]) && difference <= abs + rel * std::abs(pb[i])) continue;
    if (std::isfinite(difference)) worst = std::max(worst, difference);
    if (faults++ < 10)
      lines += fmt::format("\n  {}: got {:.9g}, want {:.9g}, difference {:.3g}",
                           detail::index_text(i, a.sizes()), pa[i], pb[i], pa[i] - pb[i]);
  }
  if (faults == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure() << fmt::format(
             "{} of {} values of {} differ by more than {:.3g} + {:.3g} * |want|, worst "
             "by {:.3g}:{}",
             faults, a.numel(), detail::sizes_text(want), abs, rel, worst, lines);
}

/// Same shape, same dtype, same values (NaN equals NaN, -0 equals 0).
inline testing::AssertionResult tensor_equal(const at::Tensor& got, const at::Tensor& want) {
  if (got.defined() && want.defined() && got.scalar_type() != want.scalar_type())
    return testing::AssertionFailure() << "dtypes differ: got " << detail::sizes_text(got)
                                       << ", want " << detail::sizes_text(want);
  return tensor_near(got, want, {0.0, 0.0});
}

}  // namespace euromodal::testing_support

namespace euromodal {
using testing_support::tensor_equal;
using testing_support::tensor_near;
using testing_support::Tolerance;
}  // namespace euromodal
