// attention_ref.cpp — attention in ATen's plainest operators; scores in fp32 (f64 for f64).
#include "backbone/kernels/attention/attention_ref.h"

#include <limits>

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor attention_ref(const AttentionArgs& args, const Segments& rows) {
  const at::ScalarType dtype = args.q_THN.scalar_type();
  const at::ScalarType wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t group = args.q_THN.size(1) / args.k_TKN.size(1);
  std::vector<at::Tensor> samples;
  for (int64_t s = 0; s < rows.count(); ++s) {
    const int64_t length = rows.length(s);
    const auto heads_first = [&](const at::Tensor& x_TXN) {
      return x_TXN.narrow(0, rows.begin(s), length).to(wide).transpose(0, 1);
    };
    const at::Tensor q_HLN = heads_first(args.q_THN);
    const at::Tensor k_HLN = heads_first(args.k_TKN).repeat_interleave(group, 0);
    const at::Tensor v_HLN = heads_first(args.v_TKN).repeat_interleave(group, 0);
    at::Tensor scores_HLL = at::matmul(q_HLN, k_HLN.transpose(1, 2)) * args.scale;
    if (args.causal) {
      const at::Tensor later_LL =
          at::ones({length, length}, q_HLN.options().dtype(at::kBool)).triu(1);
      scores_HLL = scores_HLL.masked_fill(later_LL, -std::numeric_limits<double>::infinity());
    }
    samples.push_back(at::matmul(scores_HLL.softmax(-1), v_HLN).transpose(0, 1).to(dtype));
  }
  return samples.empty() ? at::zeros_like(args.q_THN) : at::cat(samples, 0);
}

}  // namespace euromodal
