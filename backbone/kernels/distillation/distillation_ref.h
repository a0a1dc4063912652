// distillation_ref.h — divergence of teacher and student, the plain definition with whole logits.
#pragma once
#include "backbone/kernels/distillation/distillation.h"

namespace euromodal {

/// As linear_distillation() without chunks; differentiable by ATen's own rules.
at::Tensor linear_distillation_ref(const DistillationArgs& args);

}  // namespace euromodal
