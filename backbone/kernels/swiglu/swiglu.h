// swiglu.h — silu(gate) · up (Shazeer 2020).
#pragma once
#include <ATen/core/Tensor.h>

namespace euromodal {

/// gate_TF, up_TF [T, F] -> [T, F].
at::Tensor swiglu(const at::Tensor& gate_TF, const at::Tensor& up_TF);

/// The same of a fused projection: gate_up_TG [T, 2F], a row's gate before its up -> [T, F].
at::Tensor swiglu(const at::Tensor& gate_up_TG);

}  // namespace euromodal
