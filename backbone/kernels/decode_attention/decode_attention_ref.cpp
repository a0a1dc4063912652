// decode_attention_ref.cpp — see decode_attention_ref.h.
#include "backbone/kernels/decode_attention/decode_attention_ref.h"

#include <ATen/ATen.h>

#include "backbone/kernels/decode_attention/kv_rows.h"

namespace euromodal {

at::Tensor decode_attention_ref(const at::Tensor& q_THN, const KvLayout& layout, int64_t layer,
                                std::span<const DecodeSequence> sequences, double scale) {
  at::Tensor out_THN = at::zeros(q_THN.sizes(), at::kDouble);
  const int64_t group = q_THN.size(1) / layout.kv_heads;
  for (const DecodeSequence& s : sequences) {
    auto [k_LKN, v_LKN] = load_kv_rows(layout, layer, s.pages, s.length, at::kFloat);
    const at::Tensor k_LHN = k_LKN.to(at::kDouble).repeat_interleave(group, 1),
                     v_LHN = v_LKN.to(at::kDouble).repeat_interleave(group, 1);
    for (int64_t t = 0; t < s.rows; ++t) {
      const int64_t seen = s.length - s.rows + t + 1;
      const at::Tensor q_HN = q_THN.select(0, s.row + t).to(at::kDouble),
                       p_LH = at::softmax((k_LHN.narrow(0, 0, seen) * q_HN).sum(2) * scale, 0);
      out_THN.select(0, s.row + t).copy_((p_LH.unsqueeze(2) * v_LHN.narrow(0, 0, seen)).sum(0));
    }
  }
  return out_THN;
}

}  // namespace euromodal
