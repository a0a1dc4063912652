// swiglu_ref.cpp — silu(gate) · up with ATen's operators.
#include "backbone/kernels/swiglu/swiglu_ref.h"

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor swiglu_ref(const at::Tensor& gate_TF, const at::Tensor& up_TF) {
  return at::silu(gate_TF) * up_TF;
}

}  // namespace euromodal
