// to_device.h — small host numbers to a device without waiting for it: through pinned memory, in
// stream order.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace euromodal {

/// values -> [n] of i64 on `device` (the CPU: a plain tensor).
at::Tensor to_device(const std::vector<int64_t>& values, at::Device device);

/// A dense tensor of the CPU to `device` (one that lies there already: itself).
at::Tensor to_device(const at::Tensor& cpu, at::Device device);

/// Where packed samples start, cu [S+1], as i32 on `device`. What this thread asked for last is
/// kept: all layers of a pass ask for the same.
at::Tensor starts_on(const std::vector<int64_t>& cu, at::Device device);

}  // namespace euromodal
