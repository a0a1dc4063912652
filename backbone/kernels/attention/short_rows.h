// short_rows.h — attention of short samples (a caption, a small picture) on the CPU, straight from
// the packed rows: no gather, no padding to the longest, no expanded keys. One work item is one
// key/value head of one sample, so its bits depend on nothing else.
#pragma once
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/attention/attention.h"

namespace euromodal {

/// Up to here (prefix and own rows) a sample's scores stay in the second-level cache.
inline constexpr int64_t kShortRows = 192;

/// The prefix of sample s, empty where there is none.
inline const AttentionPrefix& attention_prefix(const AttentionArgs& args, int64_t s) {
  static const AttentionPrefix kNone;
  return args.prefix.empty() ? kNone : args.prefix[static_cast<size_t>(s)];
}

/// Writes out_THN and lse_TH (log of the sum of exponentials, f32; f64 for f64) of the samples
/// listed. q, k, v with unit stride in N.
void attention_short_forward(const AttentionArgs& args, const Segments& rows,
                             const std::vector<int64_t>& samples, const at::Tensor& out_THN,
                             const at::Tensor& lse_TH);

struct AttentionBackwardArgs {
  AttentionArgs forward;
  at::Tensor out_THN, lse_TH, dout_THN;
  at::Tensor dq_THN, dk_TKN, dv_TKN;  // written
};
void attention_short_backward(const AttentionBackwardArgs& args, const Segments& rows,
                              const std::vector<int64_t>& samples);

}  // namespace euromodal
