// cross_entropy.h — fused linear + cross-entropy over labelled rows, in chunks of rows: the [R, V]
// logits of all rows never exist at once (Wijmans et al. 2024, arXiv:2411.09009, has the idea); the
// gradient with respect to the hidden rows is made in the forward pass.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

struct CrossEntropyArgs {
  at::Tensor hidden_RD;     // [R, D] labelled rows only
  at::Tensor weight_VD;     // [V, D] head (no bias)
  at::Tensor labels_R;      // [R] i64 in [0, V), where hidden_RD is
  at::Tensor row_weight_R;  // [R] f32 or undefined (all 1)
  double label_smoothing = 0.0;
  double z_loss = 0.0;  // keeps log Z, the log-sum-exp of a row's logits, near 0
  int64_t chunk_rows = 1024;
  at::Tensor* row_loss_R = nullptr;  // where given: receives the weighted losses [R] f32, detached
  // A low-rank update of the logits, [R, K] and [V, K], or both undefined: LoRA on the head.
  at::Tensor low_RK{}, low_VK{};
};

/// Sum (not mean) over rows of row_weight · -log softmax(Z)[label], Z = hidden Wᵀ + low_R low_Vᵀ, a
/// scalar f32 (f64 for f64). Differentiable in hidden, weight and the update. rows: the samples of
/// the R rows, for per_sample: then loss and gradients are summed sample by sample (the gradients
/// before they are multiplied by the gradient of the loss, so bits agree with separate backward
/// calls when that is 1). Label smoothing as torch's cross_entropy: (1 - e) · nll + e / V · sum of
/// -log p. z_loss adds z · (log Z)² to every row before its weight (PaLM, arXiv:2204.02311, section
/// 5). DataError for a label outside the vocabulary; on a GPU, where nobody waits for the labels,
/// the loss of its row is NaN.
at::Tensor linear_cross_entropy(const CrossEntropyArgs& args, const Segments& rows);

}  // namespace euromodal
