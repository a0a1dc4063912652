// attention.h — scaled dot-product attention over packed samples (varlen) and over a KV cache, with
// grouped-query heads.
#pragma once
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

struct AttentionArgs {
  at::Tensor q_THN;  // [T, H, N]
  at::Tensor k_TKN;  // [T, K, N], H a multiple of K
  at::Tensor v_TKN;  // [T, K, N]
  bool causal = true;
  double scale = 0.0;  // on q·k
};

/// Every row attends inside its own sample -> [T, H, N]. Differentiable. Bits of a sample do not
/// depend on its neighbours in the pack.
at::Tensor attention(const AttentionArgs& args, const Segments& rows);

/// One sequence over its cache, causal, no gradient: q_THN are the LAST T of the L positions in
/// k_LKN, v_LKN -> [T, H, N].
at::Tensor attention_cached(const at::Tensor& q_THN, const at::Tensor& k_LKN,
                            const at::Tensor& v_LKN, double scale);

}  // namespace euromodal
