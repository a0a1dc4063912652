// attention.cpp — checks, autograd and the choice by length: short samples by short_rows.cpp, long
// ones one by one through ATen's blocked CPU attention (its scores never exist whole either). The
// choice looks at the sample's own length alone, so its bits do not depend on its neighbours.
#include "backbone/kernels/attention/attention.h"

#include <cmath>

#include <ATen/ATen.h>

#include "backbone/kernels/attention/short_rows.h"
#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct AttentionOut {
  at::Tensor out_THN, lse_TH;
};

at::Tensor attention_unit_stride(const at::Tensor& x) {
  return x.stride(2) == 1 ? x : x.contiguous();
}

// The samples of one kind: short or long (empty ones are neither).
std::vector<int64_t> attention_samples(const Segments& rows, bool is_short) {
  std::vector<int64_t> out;
  for (int64_t s = 0; s < rows.count(); ++s)
    if (rows.length(s) > 0 && (rows.length(s) <= kShortRows) == is_short) out.push_back(s);
  return out;
}

// Rows of one sample as ATen wants them, [1, heads, L, N]; keys and values repeated per query head.
at::Tensor attention_heads(const at::Tensor& x_TXN, int64_t begin, int64_t length, int64_t group) {
  at::Tensor x_XLN = x_TXN.narrow(0, begin, length).transpose(0, 1);
  if (group > 1) x_XLN = x_XLN.repeat_interleave(group, 0);
  return x_XLN.unsqueeze(0);
}

AttentionOut attention_forward(const AttentionArgs& args, const Segments& rows) {
  const at::Tensor& q_THN = args.q_THN;
  const at::ScalarType wide = q_THN.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  AttentionOut out{at::empty(q_THN.sizes(), q_THN.options()),
                   at::empty({q_THN.size(0), q_THN.size(1)}, q_THN.options().dtype(wide))};
  attention_short_forward(args, rows, attention_samples(rows, true), out.out_THN, out.lse_TH);
  const int64_t group = q_THN.size(1) / args.k_TKN.size(1);
  for (const int64_t s : attention_samples(rows, false)) {
    const int64_t begin = rows.begin(s), length = rows.length(s);
    const auto [o, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
        attention_heads(q_THN, begin, length, 1), attention_heads(args.k_TKN, begin, length, group),
        attention_heads(args.v_TKN, begin, length, group), /*dropout_p=*/0.0, args.causal,
        /*attn_mask=*/{}, args.scale);
    out.out_THN.narrow(0, begin, length).copy_(o[0].transpose(0, 1));
    out.lse_TH.narrow(0, begin, length).copy_(lse[0].transpose(0, 1));
  }
  return out;
}

void attention_long_backward(const AttentionBackwardArgs& args, const Segments& rows) {
  const AttentionArgs& f = args.forward;
  const int64_t kv_heads = f.k_TKN.size(1), group = f.q_THN.size(1) / kv_heads;
  for (const int64_t s : attention_samples(rows, false)) {
    const int64_t begin = rows.begin(s), length = rows.length(s), width = f.q_THN.size(2);
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        attention_heads(args.dout_THN, begin, length, 1),
        attention_heads(f.q_THN, begin, length, 1), attention_heads(f.k_TKN, begin, length, group),
        attention_heads(f.v_TKN, begin, length, group),
        attention_heads(args.out_THN, begin, length, 1),
        args.lse_TH.narrow(0, begin, length).t().contiguous().unsqueeze(0), /*dropout_p=*/0.0,
        f.causal, /*attn_mask=*/{}, f.scale);
    args.dq_THN.narrow(0, begin, length).copy_(dq[0].transpose(0, 1));
    const auto sum_groups = [&](const at::Tensor& grad_1HLN) {
      return grad_1HLN.view({kv_heads, group, length, width}).sum(1).transpose(0, 1);
    };
    args.dk_TKN.narrow(0, begin, length).copy_(sum_groups(dk.contiguous()));
    args.dv_TKN.narrow(0, begin, length).copy_(sum_groups(dv.contiguous()));
  }
}

struct AttentionFunction final : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_THN, const at::Tensor& k_TKN,
                            const at::Tensor& v_TKN, const AttentionArgs& args,
                            const Segments& rows) {
    const AttentionOut out =
        attention_forward({q_THN, k_TKN, v_TKN, args.causal, args.scale}, rows);
    ctx->save_for_backward({q_THN, k_TKN, v_TKN, out.out_THN, out.lse_TH});
    ctx->saved_data["causal"] = args.causal;
    ctx->saved_data["scale"] = args.scale;
    save_segments(ctx, rows);
    return out.out_THN;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Segments rows = saved_segments(ctx);
    AttentionBackwardArgs args;
    args.forward = {saved[0], saved[1], saved[2], ctx->saved_data["causal"].toBool(),
                    ctx->saved_data["scale"].toDouble()};
    args.out_THN = saved[3];
    args.lse_TH = saved[4];
    args.dout_THN = attention_unit_stride(grads[0]);
    args.dq_THN = at::empty(saved[0].sizes(), saved[0].options());
    args.dk_TKN = at::empty(saved[1].sizes(), saved[1].options());
    args.dv_TKN = at::empty(saved[2].sizes(), saved[2].options());
    attention_short_backward(args, rows, attention_samples(rows, true));
    attention_long_backward(args, rows);
    return {args.dq_THN, args.dk_TKN, args.dv_TKN, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor attention(const AttentionArgs& args, const Segments& rows) {
  check_shape(args.q_THN, {-1, -1, -1}, "attention", "q_THN");
  const int64_t length = args.q_THN.size(0), width = args.q_THN.size(2);
  check_shape(args.k_TKN, {length, -1, width}, "attention", "k_TKN");
  check_shape(args.v_TKN, args.k_TKN.sizes(), "attention", "v_TKN");
  check_like(args.k_TKN, args.q_THN, "attention", "k_TKN");
  check_like(args.v_TKN, args.q_THN, "attention", "v_TKN");
  check(args.k_TKN.size(1) > 0 && args.q_THN.size(1) % args.k_TKN.size(1) == 0,
        "attention: {} query heads, expected a multiple of the {} key/value heads",
        args.q_THN.size(1), args.k_TKN.size(1));
  check(std::isfinite(args.scale) && args.scale > 0.0, "attention: scale is {}, expected > 0",
        args.scale);
  check_segments(rows, length, "attention");
  const AttentionArgs unit{attention_unit_stride(args.q_THN), attention_unit_stride(args.k_TKN),
                           attention_unit_stride(args.v_TKN), args.causal, args.scale};
  if (!needs_graph(args.q_THN, args.k_TKN, args.v_TKN))
    return attention_forward(unit, rows).out_THN;
  return AttentionFunction::apply(unit.q_THN, unit.k_TKN, unit.v_TKN, unit, rows);
}

at::Tensor attention_cached(const at::Tensor& q_THN, const at::Tensor& k_LKN,
                            const at::Tensor& v_LKN, double scale) {
  check_shape(q_THN, {-1, -1, -1}, "attention_cached", "q_THN");
  const int64_t length = k_LKN.size(0), kv_heads = k_LKN.size(1), width = q_THN.size(2);
  const int64_t now = q_THN.size(0), heads = q_THN.size(1);
  check_shape(k_LKN, {-1, -1, width}, "attention_cached", "k_LKN");
  check_shape(v_LKN, k_LKN.sizes(), "attention_cached", "v_LKN");
  check(now <= length, "attention_cached: {} new positions, but only {} in all", now, length);
  check(kv_heads > 0 && heads % kv_heads == 0,
        "attention_cached: {} query heads, expected a multiple of the {} key/value heads", heads,
        kv_heads);
  if (now == 0) return at::empty_like(q_THN);
  const int64_t group = heads / kv_heads;
  if (now == 1) {  // the group's queries are the rows of one head: no repeated keys
    const at::Tensor q_KGN = q_THN.reshape({1, kv_heads, group, width});
    const at::Tensor o = std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
        q_KGN, attention_heads(k_LKN, 0, length, 1), attention_heads(v_LKN, 0, length, 1), 0.0,
        /*is_causal=*/false, {}, scale));
    return o.contiguous().view({1, heads, width});
  }
  at::Tensor mask_TL;  // rows at the end of a longer sequence: ATen's causal flag means the start
  if (now < length) {
    mask_TL = at::full({now, length}, -INFINITY, q_THN.options()).triu(length - now + 1);
    mask_TL = mask_TL.view({1, 1, now, length});
  }
  const at::Tensor o = std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
      attention_heads(q_THN, 0, now, 1), attention_heads(k_LKN, 0, length, group),
      attention_heads(v_LKN, 0, length, group), 0.0, /*is_causal=*/now == length,
      mask_TL.defined() ? std::optional<at::Tensor>(mask_TL) : std::nullopt, scale));
  return o[0].transpose(0, 1).contiguous();
}

}  // namespace euromodal
