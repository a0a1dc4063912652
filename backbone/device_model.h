// device_model.h — a text backbone on its way to a GPU: what the CPU has packed is brought into the
// forms that kernels read there (kernels/skinny_linear).
#pragma once
#include <vector>

#include <c10/core/Device.h>

#include "backbone/llama.h"

namespace euromodal {

/// Moves the parameters (device.h). Packed integers (a folder of `euromodal quantize`, AWQ, GPTQ,
/// Q8_0 and Q4_0 of GGUF) become codes there, scales and zero points as they are, and are given up
/// here; packed bfloat16 becomes the plain matrix. Nothing is rounded.
void move_model(const Llama& llama, const std::vector<NamedTensor>& parameters, at::Device device);

/// The packed linears alone, also on the CPU: where move_model() is tested without a GPU.
void use_device_codes(const Llama& llama, at::Device device);

}  // namespace euromodal
