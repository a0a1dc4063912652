// cross_entropy_ref.cpp — logits, log-softmax, gather, sum with ATen's operators.
#include "backbone/kernels/cross_entropy/cross_entropy_ref.h"

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor linear_cross_entropy_ref(const CrossEntropyArgs& args) {
  const bool is_double = args.hidden_RD.scalar_type() == at::kDouble;
  at::Tensor logits_RV = at::matmul(args.hidden_RD, args.weight_VD.t());
  if (args.low_RK.defined()) logits_RV = logits_RV + at::matmul(args.low_RK, args.low_VK.t());
  logits_RV = logits_RV.to(is_double ? at::kDouble : at::kFloat);
  const at::Tensor log_p_RV = logits_RV.log_softmax(1);
  const at::Tensor nll_R = -log_p_RV.gather(1, args.labels_R.unsqueeze(1)).squeeze(1);
  const at::Tensor row_R = nll_R * (1 - args.label_smoothing) -
                           log_p_RV.mean(1) * args.label_smoothing +
                           logits_RV.logsumexp({1}).square() * args.z_loss;
  return (args.row_weight_R.defined() ? row_R * args.row_weight_R : row_R).sum();
}

}  // namespace euromodal
