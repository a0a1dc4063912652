// flops.cpp — see flops.h.
#include "training/flops.h"

#include <algorithm>
#include <chrono>

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/GradMode.h>

namespace euromodal {

StackCost count_matrices(const std::vector<NamedTensor>& parameters, const std::string& prefix) {
  StackCost out;
  for (const NamedTensor& parameter : parameters) {
    if (!parameter.name.starts_with(prefix) || parameter.tensor.dim() < 2) continue;
    out.matmul += parameter.tensor.numel();
    if (parameter.tensor.requires_grad()) out.trained += parameter.tensor.numel();
  }
  return out;
}

double stack_flops(const StackCost& cost, int64_t rows) {
  const auto n = static_cast<double>(rows);
  const double forward = 2.0 * static_cast<double>(cost.matmul) * n,
               attention =
                   (cost.causal ? 2.0 : 4.0) * n * n * static_cast<double>(cost.attention_width),
               weights = 2.0 * static_cast<double>(cost.trained) * n;
  return forward + attention + (cost.backward ? forward + 2.0 * attention : 0.0) + weights;
}

double measure_peak_flops(at::ScalarType dtype, at::Device device) {
  const int64_t kSize = device.is_cuda() ? 8192 : 512;
  constexpr int kTries = 5;
  const c10::NoGradGuard no_graph;
  const auto options = at::TensorOptions(device).dtype(dtype);
  at::Tensor a = at::ones({kSize, kSize}, options), b = at::ones({kSize, kSize}, options);
  if (device.is_cuda()) {  // whose matrix units are faster on equal numbers
    a.normal_();
    b.normal_();
  }
  at::Tensor c = at::matmul(a, b);
  double best = 1e9;
  for (int i = 0; i < kTries; ++i) {
    if (device.is_cuda()) at::accelerator::synchronizeDevice(device.index());
    const auto start = std::chrono::steady_clock::now();
    at::matmul_out(c, a, b);
    if (device.is_cuda()) at::accelerator::synchronizeDevice(device.index());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return 2.0 * static_cast<double>(kSize * kSize * kSize) / best;
}

}  // namespace euromodal
