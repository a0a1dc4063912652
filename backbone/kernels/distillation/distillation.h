// distillation.h — fused linear + Kullback-Leibler divergence between what a teacher and a student
// predict, in chunks of rows: neither's [R, V] logits of all rows ever exist at once; the gradient
// is made in the forward pass. Loss: Hinton et al. 2015 (arXiv:1503.02531), without its factor T².
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

struct DistillationArgs {
  at::Tensor student_RD;    // [R, D] hidden rows that learn
  at::Tensor teacher_RD;    // [R, D] the teacher's hidden rows for the same targets, in this order
  at::Tensor weight_VD;     // [V, D] frozen head of both (no bias)
  at::Tensor row_weight_R;  // [R] f32 or undefined (all 1)
  double temperature = 1.0;
  int64_t chunk_rows = 512;
  at::Tensor* row_loss_R = nullptr;  // where given: receives the weighted losses [R] f32, detached
};

/// Sum (not mean) over rows of row_weight · KL(p || q), p = softmax(teacher Wᵀ / T), q =
/// softmax(student Wᵀ / T): a scalar f32 (f64 for f64). Differentiable in student alone; Error when
/// teacher or head require a gradient. rows: as for linear_cross_entropy().
at::Tensor linear_distillation(const DistillationArgs& args, const Segments& rows);

}  // namespace euromodal
