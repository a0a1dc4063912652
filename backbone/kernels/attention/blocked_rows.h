// blocked_rows.h — attention of many new rows of bf16 over their keys and values on the CPU, by the
// matrix kernels of packed_linear(): q·k and p·v are products with packed weights, softmax runs on
// line (flash attention, Dao 2023, arXiv:2307.08691). T new rows, L positions, H query heads, K
// key/value heads, N head width.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/cpu_features.h"

namespace euromodal {

/// As attention_cached(), for bf16 on the CPU with unit stride in N -> [T, H, N]. Products of bf16
/// with sums in f32; the shares of a row are rounded to bf16 before they weigh values, as ATen
/// does. A row's bits depend on its own position and the keys and values below it alone.
at::Tensor attention_blocked(const at::Tensor& q_THN, const at::Tensor& k_LKN,
                             const at::Tensor& v_LKN, double scale, CpuIsa isa = cpu_isa());

}  // namespace euromodal
