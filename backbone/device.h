// device.h — `--device`: the CPU, or a GPU through libeuromodal_cuda.so, which is loaded when first
// asked for. The same program runs on hosts with and without GPU.
#pragma once
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/weights/safetensors.h"

namespace euromodal {

/// Raised whenever the interface between libeuromodal.so and libeuromodal_cuda.so changes.
constexpr int kCudaAbi = 7;

/// "cpu", "cuda" or "cuda:N"; another word is a UsageError. For CUDA: probes the driver, loads
/// LibTorch's CUDA part and ours, checks that the device exists; each fault is one Error that says
/// what was tried and what to do. Call before any tensor work: LibTorch looks for CUDA once.
at::Device open_device(const std::string& word);

/// Moves parameters in place: every handle on them sees the tensor on `device`.
void move_parameters(const std::vector<NamedTensor>& parameters, at::Device device);

}  // namespace euromodal
