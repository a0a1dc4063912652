// linear.cpp — checks and autograd of y = x Wᵀ + b; the products themselves are in matmul.cpp.
#include "backbone/kernels/linear/linear.h"

#include <optional>

#include <ATen/ATen.h>

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"
#include "backbone/kernels/linear/float8_weight.h"
#include "backbone/kernels/matmul.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LinearFunction final : torch::autograd::Function<LinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TI,
                            const at::Tensor& weight_OI, const std::optional<at::Tensor>& bias_O,
                            const std::optional<at::Tensor>& scale_O, const Segments& rows) {
    // a frozen weight needs no input, an input without gradient no weight
    ctx->save_for_backward({weight_OI.requires_grad() ? x_TI : at::Tensor(),
                            x_TI.requires_grad() ? weight_OI : at::Tensor(),
                            scale_O.value_or(at::Tensor())});
    ctx->saved_data["bias"] = bias_O.has_value();
    save_segments(ctx, rows);
    return product(x_TI, weight_OI, bias_O.value_or(at::Tensor()), rows,
                   scale_O.value_or(at::Tensor()));
  }

  static at::Tensor product(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                            const at::Tensor& bias_O, const Segments& rows,
                            const at::Tensor& scale_O) {
    return rows_matmul(x_TI, product_weight(weight_OI, scale_O, x_TI.scalar_type()).t(), bias_O,
                       rows);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Segments rows = saved_segments(ctx);
    const at::Tensor dy_TO = grads[0].contiguous();
    at::Tensor dx_TI, dw_OI, db_O;
    if (ctx->needs_input_grad(0))
      dx_TI = rows_matmul(dy_TO, product_weight(saved[1], saved[2], dy_TO.scalar_type()), {}, rows);
    if (ctx->needs_input_grad(1)) dw_OI = rows_outer(dy_TO, saved[0], rows);
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) db_O = rows_sum(dy_TO, rows);
    return {dx_TI, dw_OI, db_O, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x_TI, const at::Tensor& weight_OI, const at::Tensor& bias_O,
                  const Segments& rows, const at::Tensor& scale_O) {
  check_shape(x_TI, {-1, -1}, "linear", "x_TI");
  check_shape(weight_OI, {-1, x_TI.size(1)}, "linear", "weight_OI");
  check_product_weight(weight_OI, scale_O, x_TI, "linear");
  if (bias_O.defined()) {
    check_shape(bias_O, {weight_OI.size(0)}, "linear", "bias_O");
    check_same(bias_O, x_TI, "linear", "bias_O");
  }
  if (rows.per_sample) check_segments(rows, x_TI.size(0), "linear");
  if (!needs_graph(x_TI, weight_OI, bias_O))
    return LinearFunction::product(x_TI, weight_OI, bias_O, rows, scale_O);
  // an undefined tensor is no argument of a Function, an empty optional is one
  const auto given = [](const at::Tensor& t) {
    return t.defined() ? std::make_optional(t) : std::nullopt;
  };
  return LinearFunction::apply(x_TI, weight_OI, given(bias_O), given(scale_O), rows);
}

}  // namespace euromodal
