// lora_linear.h — a linear layer with a low-rank update: y = x Wᵀ + b + scale · (drop(x) Aᵀ) Bᵀ.
// Reference: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; peft 0.21
// lora.Linear. T packed rows, I inputs, O outputs, R rank.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

struct LoraUpdate {
  at::Tensor a_RI, b_OR;
  double scale = 1.0;
  /// Share of the update's inputs that is dropped, [0, 1); the rest grows by 1 / (1 - dropout). The
  /// product with W sees all of x.
  double dropout = 0.0;
  /// One key per sample of the rows: what is dropped is a function of (key, row in the sample,
  /// column) alone, so packing does not change it. Empty: nothing is dropped.
  std::vector<uint64_t> keys;
};

/// x_TI [T, I], weight_OI [O, I], bias_O [O] or undefined -> [T, O], all of one dtype.
/// Differentiable in all of them but `keys`; x is kept once, for A (and W), and a frozen weight
/// keeps nothing and gets no gradient. What was dropped is drawn again in backward, not kept.
/// scale_O: of a float8 weight, as linear() takes it.
at::Tensor lora_linear(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                       const at::Tensor& bias_O, const LoraUpdate& lora, const Segments& rows,
                       const at::Tensor& scale_O = {});

/// What the update's input is multiplied with: 0 or 1 / (1 - dropout), [T, I] like x_TI (dtype,
/// device), whose values do not matter. Drawn on the host.
at::Tensor lora_dropout_mask(double dropout, const std::vector<uint64_t>& keys,
                             const at::Tensor& x_TI, const Segments& rows);

}  // namespace euromodal
