// attention.cpp — checks, autograd and the choice by length: short samples by short_rows.cpp, long
// ones one by one through ATen's blocked CPU attention (its scores never exist whole either). The
// choice looks at the sample's own length alone, so its bits do not depend on its neighbours.
#include "backbone/kernels/attention/attention.h"

#include <cmath>

#include <ATen/ATen.h>

#include "backbone/kernels/attention/attention_cuda.h"
#include "backbone/kernels/attention/blocked_rows.h"
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
std::vector<int64_t> attention_samples(const AttentionArgs& args, const Segments& rows,
                                       bool is_short) {
  std::vector<int64_t> out;
  for (int64_t s = 0; s < rows.count(); ++s) {
    const int64_t keys = attention_prefix(args, s).length() + rows.length(s);
    if (rows.length(s) > 0 && (keys <= kShortRows) == is_short) out.push_back(s);
  }
  return out;
}

// Rows of one sample as ATen wants them, [1, heads, L, N]; keys and values repeated per query head.
at::Tensor attention_heads(const at::Tensor& x_TXN, int64_t begin, int64_t length, int64_t group) {
  at::Tensor x_XLN = x_TXN.narrow(0, begin, length).transpose(0, 1);
  if (group > 1) x_XLN = x_XLN.repeat_interleave(group, 0);
  return x_XLN.unsqueeze(0);
}

// [1, 1, L, M]: row t sees keys 0 .. before + t.
at::Tensor attention_late_mask(int64_t before, int64_t length, const at::TensorOptions& options) {
  return at::full({length, before + length}, -INFINITY, options)
      .triu(before + 1)
      .view({1, 1, length, before + length});
}

// A long sample's operands in ATen's layout. ATen's causal flag means the start of the keys; rows
// behind a prefix need a mask.
struct AttentionLong {
  at::Tensor q_1HLN, k_1HMN, v_1HMN, mask_11LM;
  bool causal;

  AttentionLong(const AttentionArgs& args, const Segments& rows, int64_t s) {
    const AttentionPrefix& prefix = attention_prefix(args, s);
    const int64_t begin = rows.begin(s), length = rows.length(s), before = prefix.length();
    const int64_t group = args.q_THN.size(1) / args.k_TKN.size(1);
    const auto keys = [&](const at::Tensor& before_PKN, const at::Tensor& own_TKN) {
      if (before == 0) return attention_heads(own_TKN, begin, length, group);
      return attention_heads(at::cat({before_PKN, own_TKN.narrow(0, begin, length)}), 0,
                             before + length, group);
    };
    q_1HLN = attention_heads(args.q_THN, begin, length, 1);
    k_1HMN = keys(prefix.k_PKN, args.k_TKN);
    v_1HMN = keys(prefix.v_PKN, args.v_TKN);
    causal = args.causal && before == 0;
    if (args.causal && before > 0)
      mask_11LM = attention_late_mask(before, length, q_1HLN.options());
  }
  std::optional<at::Tensor> mask() const {
    return mask_11LM.defined() ? std::make_optional(mask_11LM) : std::nullopt;
  }
};

AttentionOut attention_forward(const AttentionArgs& args, const Segments& rows) {
  const at::Tensor& q_THN = args.q_THN;
  const at::ScalarType wide = q_THN.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  AttentionOut out{at::empty(q_THN.sizes(), q_THN.options()),
                   at::empty({q_THN.size(0), q_THN.size(1)}, q_THN.options().dtype(wide))};
  attention_short_forward(args, rows, attention_samples(args, rows, true), out.out_THN, out.lse_TH);
  for (const int64_t s : attention_samples(args, rows, false)) {
    const AttentionLong sample(args, rows, s);
    const auto [o, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
        sample.q_1HLN, sample.k_1HMN, sample.v_1HMN, /*dropout_p=*/0.0, sample.causal,
        sample.mask(), args.scale);
    out.out_THN.narrow(0, rows.begin(s), rows.length(s)).copy_(o[0].transpose(0, 1));
    out.lse_TH.narrow(0, rows.begin(s), rows.length(s)).copy_(lse[0].transpose(0, 1));
  }
  return out;
}

void attention_long_backward(const AttentionBackwardArgs& args, const Segments& rows) {
  const AttentionArgs& f = args.forward;
  const int64_t kv_heads = f.k_TKN.size(1), group = f.q_THN.size(1) / kv_heads;
  for (const int64_t s : attention_samples(f, rows, false)) {
    const int64_t begin = rows.begin(s), length = rows.length(s), width = f.q_THN.size(2);
    const int64_t before = attention_prefix(f, s).length();
    const AttentionLong sample(f, rows, s);
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        attention_heads(args.dout_THN, begin, length, 1), sample.q_1HLN, sample.k_1HMN,
        sample.v_1HMN, attention_heads(args.out_THN, begin, length, 1),
        args.lse_TH.narrow(0, begin, length).t().contiguous().unsqueeze(0), /*dropout_p=*/0.0,
        sample.causal, sample.mask(), f.scale);
    args.dq_THN.narrow(0, begin, length).copy_(dq[0].transpose(0, 1));
    const auto sum_groups = [&](const at::Tensor& grad_1HMN) {
      return grad_1HMN.narrow(2, before, length)
          .reshape({kv_heads, group, length, width})
          .sum(1)
          .transpose(0, 1);
    };
    args.dk_TKN.narrow(0, begin, length).copy_(sum_groups(dk));
    args.dv_TKN.narrow(0, begin, length).copy_(sum_groups(dv));
  }
}

void attention_check_prefix(AttentionPrefix& prefix, const at::Tensor& k_TKN) {
  if (prefix.length() == 0) {
    prefix = {};
    return;
  }
  check_shape(prefix.k_PKN, {-1, k_TKN.size(1), k_TKN.size(2)}, "attention", "k_PKN");
  check_shape(prefix.v_PKN, prefix.k_PKN.sizes(), "attention", "v_PKN");
  check_same(prefix.k_PKN, k_TKN, "attention", "k_PKN");
  check_same(prefix.v_PKN, k_TKN, "attention", "v_PKN");
  check(!prefix.k_PKN.requires_grad() && !prefix.v_PKN.requires_grad(),
        "attention: a prefix is a constant, but this one requires grad");
  prefix = {attention_unit_stride(prefix.k_PKN), attention_unit_stride(prefix.v_PKN)};
}

struct AttentionFunction final : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_THN, const at::Tensor& k_TKN,
                            const at::Tensor& v_TKN, const AttentionArgs& args,
                            const Segments& rows) {
    const AttentionOut out =
        attention_forward({q_THN, k_TKN, v_TKN, args.causal, args.scale, args.prefix}, rows);
    variable_list saved{q_THN, k_TKN, v_TKN, out.out_THN, out.lse_TH};
    for (const AttentionPrefix& prefix : args.prefix) {
      saved.push_back(prefix.k_PKN);
      saved.push_back(prefix.v_PKN);
    }
    ctx->save_for_backward(saved);
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
    for (size_t i = 5; i < saved.size(); i += 2)
      args.forward.prefix.push_back({saved[i], saved[i + 1]});
    args.out_THN = saved[3];
    args.lse_TH = saved[4];
    args.dout_THN = attention_unit_stride(grads[0]);
    args.dq_THN = at::empty(saved[0].sizes(), saved[0].options());
    args.dk_TKN = at::empty(saved[1].sizes(), saved[1].options());
    args.dv_TKN = at::empty(saved[2].sizes(), saved[2].options());
    attention_short_backward(args, rows, attention_samples(args.forward, rows, true));
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
  check_same(args.k_TKN, args.q_THN, "attention", "k_TKN");
  check_same(args.v_TKN, args.q_THN, "attention", "v_TKN");
  check(args.k_TKN.size(1) > 0 && args.q_THN.size(1) % args.k_TKN.size(1) == 0,
        "attention: {} query heads, expected a multiple of the {} key/value heads",
        args.q_THN.size(1), args.k_TKN.size(1));
  check(std::isfinite(args.scale) && args.scale > 0.0, "attention: scale is {}, expected > 0",
        args.scale);
  check_segments(rows, length, "attention");
  check(args.prefix.empty() || static_cast<int64_t>(args.prefix.size()) == rows.count(),
        "attention: {} prefixes for {} samples", args.prefix.size(), rows.count());
  AttentionArgs unit{attention_unit_stride(args.q_THN),
                     attention_unit_stride(args.k_TKN),
                     attention_unit_stride(args.v_TKN),
                     args.causal,
                     args.scale,
                     args.prefix};
  for (AttentionPrefix& prefix : unit.prefix) attention_check_prefix(prefix, args.k_TKN);
  if (unit.q_THN.is_cuda()) return attention_cuda(unit, rows);
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
  if (q_THN.is_cuda()) return attention_cached_cuda(q_THN, k_LKN, v_LKN, scale);
  const int64_t group = heads / kv_heads;
  if (now == 1) {  // the group's queries are the rows of one head: no repeated keys
    const at::Tensor q_KGN = q_THN.reshape({1, kv_heads, group, width});
    const at::Tensor o = std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
        q_KGN, attention_heads(k_LKN, 0, length, 1), attention_heads(v_LKN, 0, length, 1), 0.0,
        /*is_causal=*/false, {}, scale));
    return o.contiguous().view({1, heads, width});
  }
  if (q_THN.scalar_type() == at::kBFloat16)
    return attention_blocked(q_THN, attention_unit_stride(k_LKN), attention_unit_stride(v_LKN),
                             scale);
  at::Tensor mask_TL;  // rows at the end of a longer sequence: ATen's causal flag means the start
  if (now < length) mask_TL = attention_late_mask(length - now, now, q_THN.options());
  const at::Tensor o = std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
      attention_heads(q_THN, 0, now, 1), attention_heads(k_LKN, 0, length, group),
      attention_heads(v_LKN, 0, length, group), 0.0, /*is_causal=*/now == length,
      mask_TL.defined() ? std::optional<at::Tensor>(mask_TL) : std::nullopt, scale));
  return o[0].transpose(0, 1).contiguous();
}

}  // namespace euromodal
