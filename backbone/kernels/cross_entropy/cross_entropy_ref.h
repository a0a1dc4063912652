// cross_entropy_ref.h — cross-entropy of a linear head, the plain definition with whole logits.
#pragma once
#include "backbone/kernels/cross_entropy/cross_entropy.h"

namespace euromodal {

/// As linear_cross_entropy() without chunks; differentiable by ATen's own rules.
at::Tensor linear_cross_entropy_ref(const CrossEntropyArgs& args);

}  // namespace euromodal
