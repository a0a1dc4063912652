// attention_cuda.cpp — see attention_cuda.h. The flash kernels take all samples at once: rows
// packed, starts cu [S+1] i32 on the device. Their causal mask is aligned to the LAST key, so
// constant prefixes are keys in front of a sample's own and need nothing else.
#include "backbone/kernels/attention/attention_cuda.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "backbone/kernels/attention/attention_ref.h"
#include "backbone/kernels/autograd.h"
#include "backbone/kernels/to_device.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool flash_takes(const at::Tensor& q_THN) {
  return (q_THN.scalar_type() == at::kBFloat16 || q_THN.scalar_type() == at::kHalf) &&
         q_THN.size(2) % 8 == 0 && q_THN.size(2) <= 256;
}

int64_t longest_of(const std::vector<int64_t>& cu) {
  int64_t longest = 0;
  for (size_t s = 1; s < cu.size(); ++s) longest = std::max(longest, cu[s] - cu[s - 1]);
  return longest;
}

// Where each sample's rows lie among all keys: a prefix, then its own.
struct FlashKeys {
  at::Tensor k_LKN, v_LKN;
  std::vector<int64_t> cu;   // [S+1]
  std::vector<int64_t> own;  // of each sample: where its own keys begin
  bool prefixed = false;

  FlashKeys(const AttentionArgs& args, const Segments& rows)
      : k_LKN(args.k_TKN), v_LKN(args.v_TKN) {
    for (const AttentionPrefix& prefix : args.prefix) prefixed = prefixed || prefix.length() > 0;
    cu = rows.cu;
    if (!prefixed) return;
    std::vector<at::Tensor> k, v;
    cu.assign(1, 0);
    for (int64_t s = 0; s < rows.count(); ++s) {
      const AttentionPrefix& prefix = args.prefix[static_cast<size_t>(s)];
      if (prefix.length() > 0) {
        k.push_back(prefix.k_PKN);
        v.push_back(prefix.v_PKN);
      }
      k.push_back(args.k_TKN.narrow(0, rows.begin(s), rows.length(s)));
      v.push_back(args.v_TKN.narrow(0, rows.begin(s), rows.length(s)));
      own.push_back(cu.back() + prefix.length());
      cu.push_back(own.back() + rows.length(s));
    }
    k_LKN = at::cat(k);
    v_LKN = at::cat(v);
  }
};

struct FlashOut {
  at::Tensor out_THN, lse, rng, unused;
};

FlashOut flash_forward(const at::Tensor& q_THN, const FlashKeys& keys, const Segments& rows,
                       bool causal, double scale) {
  const at::Device device = q_THN.device();
  auto [out, lse, rng, unused, mask] = at::_flash_attention_forward(
      q_THN, keys.k_LKN, keys.v_LKN, starts_on(rows.cu, device), starts_on(keys.cu, device),
      longest_of(rows.cu), longest_of(keys.cu), /*dropout_p=*/0.0, causal,
      /*return_debug_mask=*/false, scale);
  return {out, lse, rng, unused};
}

struct FlashFunction final : torch::autograd::Function<FlashFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_THN, const at::Tensor& k_TKN,
                            const at::Tensor& v_TKN, const AttentionArgs& args,
                            const Segments& rows) {
    const FlashKeys keys({q_THN, k_TKN, v_TKN, args.causal, args.scale, args.prefix}, rows);
    const FlashOut out = flash_forward(q_THN, keys, rows, args.causal, args.scale);
    ctx->save_for_backward(
        {q_THN, keys.k_LKN, keys.v_LKN, out.out_THN, out.lse, out.rng, out.unused});
    ctx->saved_data["causal"] = args.causal;
    ctx->saved_data["scale"] = args.scale;
    ctx->saved_data["cu_q"] = rows.cu;
    ctx->saved_data["cu_k"] = keys.cu;
    ctx->saved_data["own"] = keys.own;
    return out.out_THN;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Device device = saved[0].device();
    const std::vector<int64_t> cu_q = ctx->saved_data["cu_q"].toIntVector(),
                               cu_k = ctx->saved_data["cu_k"].toIntVector(),
                               own = ctx->saved_data["own"].toIntVector();
    auto [dq, dk, dv] = at::_flash_attention_backward(
        grads[0].contiguous(), saved[0], saved[1], saved[2], saved[3], saved[4],
        starts_on(cu_q, device), starts_on(cu_k, device), longest_of(cu_q), longest_of(cu_k),
        /*dropout_p=*/0.0, ctx->saved_data["causal"].toBool(), saved[5], saved[6],
        ctx->saved_data["scale"].toDouble());
    if (!own.empty()) {  // what fell on the prefixes is not wanted
      std::vector<at::Tensor> k, v;
      for (size_t s = 0; s < own.size(); ++s) {
        k.push_back(dk.narrow(0, own[s], cu_k[s + 1] - own[s]));
        v.push_back(dv.narrow(0, own[s], cu_k[s + 1] - own[s]));
      }
      dk = at::cat(k);
      dv = at::cat(v);
    }
    return {dq, dk, dv, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor attention_cuda(const AttentionArgs& args, const Segments& rows) {
  if (args.q_THN.size(0) == 0) return at::zeros_like(args.q_THN);
  if (!flash_takes(args.q_THN)) return attention_ref(args, rows);
  if (!needs_graph(args.q_THN, args.k_TKN, args.v_TKN))
    return flash_forward(args.q_THN, FlashKeys(args, rows), rows, args.causal, args.scale).out_THN;
  return FlashFunction::apply(args.q_THN, args.k_TKN, args.v_TKN, args, rows);
}

at::Tensor attention_cached_cuda(const at::Tensor& q_THN, const at::Tensor& k_LKN,
                                 const at::Tensor& v_LKN, double scale) {
  const int64_t now = q_THN.size(0), before = k_LKN.size(0) - now;
  const AttentionArgs args{q_THN,
                           k_LKN.narrow(0, before, now),
                           v_LKN.narrow(0, before, now),
                           /*causal=*/true,
                           scale,
                           {{k_LKN.narrow(0, 0, before), v_LKN.narrow(0, 0, before)}}};
  const Segments rows = Segments::one(now);
  if (!flash_takes(q_THN)) return attention_ref(args, rows);
  FlashKeys keys({q_THN, k_LKN, v_LKN}, Segments::one(k_LKN.size(0)));
  return flash_forward(q_THN, keys, rows, /*causal=*/true, scale).out_THN;
}

}  // namespace euromodal
