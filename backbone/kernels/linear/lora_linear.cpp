// lora_linear.cpp — see lora_linear.h. One autograd Function for the whole layer: the update is
// added into the product with W, x is kept once, and the scale is put on the [T, R] tensors.
#include "backbone/kernels/linear/lora_linear.h"

#include <optional>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"
#include "backbone/kernels/linear/float8_weight.h"
#include "backbone/kernels/matmul.h"
#include "backbone/kernels/to_device.h"
#include "core/rng.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The numbers beside the tensors; keys as IValue takes them.
struct LoraNumbers {
  double scale = 1.0, dropout = 0.0;
  std::vector<int64_t> keys;
};

at::Tensor lora_mask(const LoraNumbers& numbers, const at::Tensor& x_TI, const Segments& rows) {
  const std::vector<uint64_t> keys(numbers.keys.begin(), numbers.keys.end());
  return lora_dropout_mask(numbers.dropout, keys, x_TI, rows);
}

/// into_TO += left_TR right_RO.
void lora_add_product_(at::Tensor& into_TO, const at::Tensor& left_TR, const at::Tensor& right_RO,
                       const Segments& rows) {
  if (rows.per_sample) {
    into_TO.add_(rows_matmul(left_TR, right_RO, {}, rows));
  } else {
    into_TO.addmm_(left_TR, right_RO);
  }
}

struct LoraFunction final : torch::autograd::Function<LoraFunction> {
  // bias_O behind the others: one that is not there has no number in needs_input_grad()
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TI,
                            const at::Tensor& weight_OI, const at::Tensor& a_RI,
                            const at::Tensor& b_OR, const std::optional<at::Tensor>& bias_O,
                            const std::optional<at::Tensor>& scale_O, const LoraNumbers& numbers,
                            const Segments& rows) {
    const at::Tensor wide_OI =
        product_weight(weight_OI, scale_O.value_or(at::Tensor()), x_TI.scalar_type());
    const auto [y_TO, h_TR] =
        compute(x_TI, wide_OI, bias_O.value_or(at::Tensor()), a_RI, b_OR, numbers, rows);
    const bool dx = x_TI.requires_grad(), da = a_RI.requires_grad();
    const at::Tensor none;
    ctx->save_for_backward({da || weight_OI.requires_grad() ? x_TI : none, dx ? weight_OI : none,
                            dx ? a_RI : none, dx || da ? b_OR : none,
                            b_OR.requires_grad() ? h_TR : none, scale_O.value_or(none)});
    ctx->saved_data["bias"] = bias_O.has_value();
    ctx->saved_data["scale"] = numbers.scale;
    ctx->saved_data["dropout"] = numbers.dropout;
    ctx->saved_data["keys"] = numbers.keys;
    save_segments(ctx, rows);
    return y_TO;
  }

  /// y_TO, and the update's scaled inner rows h_TR.
  static std::pair<at::Tensor, at::Tensor> compute(const at::Tensor& x_TI,
                                                   const at::Tensor& weight_OI,
                                                   const at::Tensor& bias_O, const at::Tensor& a_RI,
                                                   const at::Tensor& b_OR,
                                                   const LoraNumbers& numbers,
                                                   const Segments& rows) {
    const at::Tensor dropped_TI =
        numbers.keys.empty() ? x_TI : x_TI * lora_mask(numbers, x_TI, rows);
    const at::Tensor h_TR = rows_matmul(dropped_TI, a_RI.t(), {}, rows).mul_(numbers.scale);
    at::Tensor y_TO = rows_matmul(x_TI, weight_OI.t(), bias_O, rows);
    lora_add_product_(y_TO, h_TR, b_OR.t(), rows);
    return {y_TO, h_TR};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x_TI = saved[0], &weight_OI = saved[1], &a_RI = saved[2], &b_OR = saved[3],
                     &h_TR = saved[4];
    const LoraNumbers numbers{ctx->saved_data["scale"].toDouble(),
                              ctx->saved_data["dropout"].toDouble(),
                              ctx->saved_data["keys"].toIntVector()};
    const Segments rows = saved_segments(ctx);
    const at::Tensor dy_TO = grads[0].contiguous();
    at::Tensor dx_TI, dw_OI, dbias_O, da_RI, db_OR, dh_TR, mask_TI;
    if (b_OR.defined()) dh_TR = rows_matmul(dy_TO, b_OR, {}, rows).mul_(numbers.scale);
    if (!numbers.keys.empty() && (x_TI.defined() || a_RI.defined()))
      mask_TI = lora_mask(numbers, x_TI.defined() ? x_TI : a_RI, rows);
    if (ctx->needs_input_grad(0)) {
      dx_TI =
          rows_matmul(dy_TO, product_weight(weight_OI, saved[5], dy_TO.scalar_type()), {}, rows);
      if (mask_TI.defined()) {
        dx_TI.add_(rows_matmul(dh_TR, a_RI, {}, rows).mul_(mask_TI));
      } else {
        lora_add_product_(dx_TI, dh_TR, a_RI, rows);
      }
    }
    if (ctx->needs_input_grad(1)) dw_OI = rows_outer(dy_TO, x_TI, rows);
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(4))
      dbias_O = rows_sum(dy_TO, rows);
    if (ctx->needs_input_grad(2))
      da_RI = rows_outer(dh_TR, mask_TI.defined() ? x_TI * mask_TI : x_TI, rows);
    if (ctx->needs_input_grad(3)) db_OR = rows_outer(dy_TO, h_TR, rows);
    return {dx_TI, dw_OI, da_RI, db_OR, dbias_O, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor lora_dropout_mask(double dropout, const std::vector<uint64_t>& keys,
                             const at::Tensor& x_TI, const Segments& rows) {
  const int64_t width = x_TI.size(1);
  check(static_cast<int64_t>(keys.size()) == rows.count(),
        "lora_dropout_mask: {} keys for {} samples", keys.size(), rows.count());
  at::Tensor mask_TI = at::empty({rows.rows(), width}, at::kFloat);
  float* const mask = mask_TI.mutable_data_ptr<float>();
  const auto kept = static_cast<float>(1.0 / (1.0 - dropout));
  const auto bound = static_cast<uint64_t>(dropout * 0x1.0p32);  // words below it are dropped
  for (int64_t s = 0; s < rows.count(); ++s) {
    const uint64_t k = keys[static_cast<size_t>(s)];
    const std::array<uint32_t, 2> key = {static_cast<uint32_t>(k), static_cast<uint32_t>(k >> 32)};
    at::parallel_for(0, rows.length(s), 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        float* const row = mask + (rows.begin(s) + t) * width;
        for (int64_t i = 0; i < width; i += 4) {
          const auto words = philox4x32(
              {static_cast<uint32_t>(i / 4), static_cast<uint32_t>(t), 0, /*domain=*/2}, key);
          for (int64_t j = 0; j < std::min<int64_t>(4, width - i); ++j)
            row[i + j] = words[static_cast<size_t>(j)] < bound ? 0.0F : kept;
        }
      }
    });
  }
  return to_device(mask_TI.to(x_TI.scalar_type()), x_TI.device());
}

at::Tensor lora_linear(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                       const at::Tensor& bias_O, const LoraUpdate& lora, const Segments& rows,
                       const at::Tensor& scale_O) {
  check_shape(x_TI, {-1, -1}, "lora_linear", "x_TI");
  check_shape(weight_OI, {-1, x_TI.size(1)}, "lora_linear", "weight_OI");
  check_product_weight(weight_OI, scale_O, x_TI, "lora_linear");
  check_shape(lora.a_RI, {-1, x_TI.size(1)}, "lora_linear", "a_RI");
  check_same(lora.a_RI, x_TI, "lora_linear", "a_RI");
  check_shape(lora.b_OR, {weight_OI.size(0), lora.a_RI.size(0)}, "lora_linear", "b_OR");
  check_same(lora.b_OR, x_TI, "lora_linear", "b_OR");
  if (bias_O.defined()) {
    check_shape(bias_O, {weight_OI.size(0)}, "lora_linear", "bias_O");
    check_same(bias_O, x_TI, "lora_linear", "bias_O");
  }
  check(lora.dropout >= 0.0 && lora.dropout < 1.0,
        "lora_linear: dropout is {}, expected a number in [0, 1)", lora.dropout);
  const bool drops = lora.dropout > 0.0 && !lora.keys.empty();
  if (rows.per_sample || drops) check_segments(rows, x_TI.size(0), "lora_linear");
  LoraNumbers numbers{lora.scale, lora.dropout, {}};
  if (drops) numbers.keys.assign(lora.keys.begin(), lora.keys.end());
  if (!needs_graph(x_TI, weight_OI, bias_O, lora.a_RI, lora.b_OR)) {
    return LoraFunction::compute(x_TI, product_weight(weight_OI, scale_O, x_TI.scalar_type()),
                                 bias_O, lora.a_RI, lora.b_OR, numbers, rows)
        .first;
  }
  const auto given = [](const at::Tensor& t) {
    return t.defined() ? std::make_optional(t) : std::nullopt;
  };
  return LoraFunction::apply(x_TI, weight_OI, lora.a_RI, lora.b_OR, given(bias_O), given(scale_O),
                             numbers, rows);
}

}  // namespace euromodal
