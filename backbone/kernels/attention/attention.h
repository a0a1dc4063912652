// attention.h — scaled dot-product attention over packed samples (varlen) and over a KV cache, with
// grouped-query heads.
#pragma once
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

/// Keys and values that stand in front of a sample's own: constants, no gradient. Both undefined:
/// none.
struct AttentionPrefix {
  at::Tensor k_PKN, v_PKN;  // [P, K, N]
  int64_t length() const { return k_PKN.defined() ? k_PKN.size(0) : 0; }
};

struct AttentionArgs {
  at::Tensor q_THN;  // [T, H, N]
  at::Tensor k_TKN;  // [T, K, N], H a multiple of K
  at::Tensor v_TKN;  // [T, K, N]
  bool causal = true;
  double scale = 0.0;                        // on q·k
  std::vector<AttentionPrefix> prefix = {};  // one per sample, or none at all
};

/// Every row attends inside its own sample, and to all of the sample's prefix -> [T, H, N].
/// Differentiable. Bits of a sample do not depend on its neighbours in the pack.
at::Tensor attention(const AttentionArgs& args, const Segments& rows);

/// One sequence over its cache, causal, no gradient: q_THN are the LAST T of the L positions in
/// k_LKN, v_LKN -> [T, H, N].
at::Tensor attention_cached(const at::Tensor& q_THN, const at::Tensor& k_LKN,
                            const at::Tensor& v_LKN, double scale);

}  // namespace euromodal
