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
    const AttentionPrefix prefix =
        args.prefix.empty() ? AttentionPrefix{} : args.prefix[static_cast<size_t>(s)];
    const int64_t before = prefix.length();
    const auto heads_first = [&](const at::Tensor& before_PXN, const at::Tensor& x_TXN) {
      at::Tensor x_MXN = x_TXN.narrow(0, rows.begin(s), length);
      if (before_PXN.defined()) x_MXN = at::cat({before_PXN, x_MXN});
      return x_MXN.to(wide).transpose(0, 1);
    };
    const at::Tensor q_HLN = heads_first({}, args.q_THN);
    const at::Tensor k_HMN = heads_first(prefix.k_PKN, args.k_TKN).repeat_interleave(group, 0);
    const at::Tensor v_HMN = heads_first(prefix.v_PKN, args.v_TKN).repeat_interleave(group, 0);
    at::Tensor scores_HLM = at::matmul(q_HLN, k_HMN.transpose(1, 2)) * args.scale;
    if (args.causal) {
      const at::Tensor later_LM =
          at::ones({length, before + length}, q_HLN.options().dtype(at::kBool)).triu(before + 1);
      scores_HLM = scores_HLM.masked_fill(later_LM, -std::numeric_limits<double>::infinity());
    }
    samples.push_back(at::matmul(scores_HLM.softmax(-1), v_HMN).transpose(0, 1).to(dtype));
  }
  return samples.empty() ? at::zeros_like(args.q_THN) : at::cat(samples, 0);
}

}  // namespace euromodal
