// lora_linear_ref.cpp — the low-rank update in the order in which peft computes it.
#include "backbone/kernels/linear/lora_linear_ref.h"

#include <ATen/ATen.h>

#include "backbone/kernels/linear/linear_ref.h"

namespace euromodal {

at::Tensor lora_linear_ref(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                           const at::Tensor& bias_O, const LoraUpdate& lora, const Segments& rows) {
  at::Tensor dropped_TI = x_TI;
  if (lora.dropout > 0.0 && !lora.keys.empty()) {
    dropped_TI = x_TI * lora_dropout_mask(lora.dropout, lora.keys, x_TI, rows);
  }
  const at::Tensor update_TO =
      linear_ref(linear_ref(dropped_TI, lora.a_RI, {}), lora.b_OR, {}) * lora.scale;
  return linear_ref(x_TI, weight_OI, bias_O) + update_TO;
}

}  // namespace euromodal
