// layer_norm.cpp — checks and autograd of layer norm; the loops are in norm_rows.cpp.
#include "backbone/kernels/layer_norm/layer_norm.h"

#include <ATen/ATen.h>

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"
#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/norm_rows.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LayerNormFunction final : torch::autograd::Function<LayerNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TD,
                            const at::Tensor& weight_D, const at::Tensor& bias_D, double eps,
                            const Segments& rows) {
    const NormForward out = norm_forward(x_TD, weight_D, bias_D, eps, /*centre=*/true);
    ctx->save_for_backward({x_TD, weight_D, out.stats_T2});
    save_segments(ctx, rows);
    return out.y_TD;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const NormWanted wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1),
                            ctx->needs_input_grad(2)};
    const NormGrads g = norm_backward(grads[0], saved[0], saved[1], saved[2], /*centre=*/true,
                                      saved_segments(ctx), wanted);
    return {g.dx_TD, g.dweight_D, g.dbias_D, at::Tensor(), at::Tensor()};
  }
};

/// The same on a CUDA device, where weight and bias gradients are summed over all rows in a fixed
/// order.
struct LayerNormCudaFunction final : torch::autograd::Function<LayerNormCudaFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TD,
                            const at::Tensor& weight_D, const at::Tensor& bias_D, double eps) {
    const auto [y_TD, stats_2T] = cuda_ops().layer_norm_forward(x_TD, weight_D, bias_D, eps);
    ctx->save_for_backward({x_TD, weight_D, stats_2T});
    return y_TD;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const LayerNormGrads g = cuda_ops().layer_norm_backward(
        grads[0], saved[0], saved[1], saved[2],
        {ctx->needs_input_grad(0), ctx->needs_input_grad(1), ctx->needs_input_grad(2)});
    return {g.dx_TD, g.dweight_D, g.dbias_D, at::Tensor()};
  }
};

at::Tensor layer_norm_cuda(const at::Tensor& x_TD, const at::Tensor& weight_D,
                           const at::Tensor& bias_D, double eps, const Segments& rows) {
  check(!rows.per_sample || !needs_graph(weight_D, bias_D),
        "layer_norm: weight gradients summed sample by sample have a CPU implementation only");
  if (!needs_graph(x_TD, weight_D, bias_D))
    return std::get<0>(cuda_ops().layer_norm_forward(x_TD, weight_D, bias_D, eps));
  return LayerNormCudaFunction::apply(x_TD, weight_D, bias_D, eps);
}

}  // namespace

at::Tensor layer_norm(const at::Tensor& x_TD, const at::Tensor& weight_D, const at::Tensor& bias_D,
                      double eps, const Segments& rows) {
  check_shape(x_TD, {-1, -1}, "layer_norm", "x_TD");
  check_shape(weight_D, {x_TD.size(1)}, "layer_norm", "weight_D");
  check_shape(bias_D, {x_TD.size(1)}, "layer_norm", "bias_D");
  check_same(weight_D, x_TD, "layer_norm", "weight_D");
  check_same(bias_D, x_TD, "layer_norm", "bias_D");
  if (rows.per_sample) check_segments(rows, x_TD.size(0), "layer_norm");
  if (x_TD.is_cuda()) return layer_norm_cuda(x_TD, weight_D, bias_D, eps, rows);
  if (!needs_graph(x_TD, weight_D, bias_D))
    return norm_forward(x_TD, weight_D, bias_D, eps, /*centre=*/true).y_TD;
  return LayerNormFunction::apply(x_TD, weight_D, bias_D, eps, rows);
}

}  // namespace euromodal
