// packed_linear.h — y = x Wᵀ + b on the CPU with a packed weight (packed_weight.h), for inference:
// no gradient. Streams the weights once per few rows; integer weights meet inputs that are rounded
// to int8, one scale per group and row. T rows, I inputs, O outputs.
#pragma once
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/cpu_features.h"
#include "backbone/kernels/packed_linear/packed_kernels.h"
#include "backbone/kernels/packed_linear/packed_weight.h"

namespace euromodal {

struct PackedOperand {
  const PackedWeight* weight;
  at::Tensor bias_O;  // of x's dtype, or undefined
};

/// x_TI [T, I] f32, bf16 or f16 on the CPU (bf16 weights: bf16) -> one [T, O] of x's dtype for each
/// operand; all operands take the same inputs and share one pass. Sums in f32, rounded once. The
/// bits of a row do not depend on the other rows or the number of threads; those of integer weights
/// not on the instruction set either. Error for shapes and dtypes that do not fit.
std::vector<at::Tensor> packed_linears(const at::Tensor& x_TI,
                                       std::span<const PackedOperand> operands,
                                       CpuIsa isa = cpu_isa());
/// The same with other inner loops.
std::vector<at::Tensor> packed_linears(const at::Tensor& x_TI,
                                       std::span<const PackedOperand> operands,
                                       const PackedKernels& kernels);
at::Tensor packed_linear(const at::Tensor& x_TI, const PackedWeight& weight,
                         const at::Tensor& bias_O, CpuIsa isa = cpu_isa());

}  // namespace euromodal
