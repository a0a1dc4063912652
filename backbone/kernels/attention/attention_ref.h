// attention_ref.h — softmax(scale · q kᵀ + mask) v, the plain definition, sample by sample.
#pragma once
#include "backbone/kernels/attention/attention.h"

namespace euromodal {

/// As attention(): [T, H, N]; differentiable by ATen's own rules.
at::Tensor attention_ref(const AttentionArgs& args, const Segments& rows);

}  // namespace euromodal
