// gpu.h — the GPU of the tests of tests/cuda/ops, opened once; each test begins with
// EM_ON_GPU(device), which says that it was skipped where there is none.
#pragma once
#include <optional>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/device.h"
#include "core/error.h"

namespace euromodal::testing_support {

inline std::optional<at::Device> the_gpu() {
  static const std::optional<at::Device> device = []() -> std::optional<at::Device> {
    try {
      return open_device("cuda");
    } catch (const Error&) {
      return std::nullopt;
    }
  }();
  return device;
}

}  // namespace euromodal::testing_support

#define EM_ON_GPU(name)                                           \
  const auto found_gpu = ::euromodal::testing_support::the_gpu(); \
  if (!found_gpu) GTEST_SKIP() << "no NVIDIA GPU on this host";   \
  const at::Device name = *found_gpu
