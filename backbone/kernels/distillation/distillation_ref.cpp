// distillation_ref.cpp — logits, log-softmax, sum with ATen's operators.
#include "backbone/kernels/distillation/distillation_ref.h"

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor linear_distillation_ref(const DistillationArgs& args) {
  const bool is_double = args.student_RD.scalar_type() == at::kDouble;
  const auto log_softmax = [&](const at::Tensor& hidden_RD) {
    const at::Tensor logits_RV =
        at::matmul(hidden_RD, args.weight_VD.t()).to(is_double ? at::kDouble : at::kFloat);
    return (logits_RV / args.temperature).log_softmax(1);
  };
  const at::Tensor log_q_RV = log_softmax(args.student_RD);
  const at::Tensor log_p_RV = log_softmax(args.teacher_RD.detach());
  const at::Tensor row_R = (log_p_RV.exp() * (log_p_RV - log_q_RV)).sum(1);
  return (args.row_weight_R.defined() ? row_R * args.row_weight_R : row_R).sum();
}

}  // namespace euromodal
