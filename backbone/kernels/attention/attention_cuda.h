// attention_cuda.h — attention() and attention_cached() on a CUDA device: LibTorch's varlen flash
// attention (Dao 2023, FlashAttention-2) in bf16 and f16, the plain definition in f32 and f64.
#pragma once
#include "backbone/kernels/attention/attention.h"

namespace euromodal {

/// As attention(); arguments are checked already. Differentiable.
at::Tensor attention_cuda(const AttentionArgs& args, const Segments& rows);

/// As attention_cached().
at::Tensor attention_cached_cuda(const at::Tensor& q_THN, const at::Tensor& k_LKN,
                                 const at::Tensor& v_LKN, double scale);

}  // namespace euromodal
