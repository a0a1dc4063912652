// CUDAGuard.h — in place of LibTorch's, for glue over emulated kernels: there is one device.
#pragma once
#include <c10/core/Device.h>

namespace c10::cuda {
struct CUDAGuard {
  explicit CUDAGuard(c10::Device /*device*/) {}
};
}  // namespace c10::cuda
