// rms_norm.cpp — checks and autograd of RMS norm; the loops are in norm_rows.cpp.
#include "backbone/kernels/rms_norm/rms_norm.h"

#include <ATen/ATen.h>

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"
#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/norm_rows.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RmsNormFunction final : torch::autograd::Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TD,
                            const at::Tensor& weight_D, double eps, const Segments& rows) {
    const NormForward out = norm_forward(x_TD, weight_D, {}, eps, /*centre=*/false);
    ctx->save_for_backward({x_TD, weight_D, out.stats_T2});
    save_segments(ctx, rows);
    return out.y_TD;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const NormWanted wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1), false};
    const NormGrads g = norm_backward(grads[0], saved[0], saved[1], saved[2], /*centre=*/false,
                                      saved_segments(ctx), wanted);
    return {g.dx_TD, g.dweight_D, at::Tensor(), at::Tensor()};
  }
};

/// The same on a CUDA device, where dweight is summed over all rows in a fixed order.
struct RmsNormCudaFunction final : torch::autograd::Function<RmsNormCudaFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TD,
                            const at::Tensor& weight_D, double eps) {
    const auto [y_TD, inv_rms_T] = cuda_ops().rms_norm_forward(x_TD, weight_D, eps);
    ctx->save_for_backward({x_TD, weight_D, inv_rms_T});
    return y_TD;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto [dx_TD, dweight_D] = cuda_ops().rms_norm_backward(
        grads[0], saved[0], saved[1], saved[2], ctx->needs_input_grad(1));
    return {dx_TD, dweight_D, at::Tensor()};
  }
};

at::Tensor rms_norm_cuda(const at::Tensor& x_TD, const at::Tensor& weight_D, double eps,
                         const Segments& rows) {
  check(weight_D.device() == x_TD.device() && weight_D.scalar_type() == x_TD.scalar_type(),
        "rms_norm: weight_D is {} on {}, expected {} on {}", c10::toString(weight_D.scalar_type()),
        weight_D.device().str(), c10::toString(x_TD.scalar_type()), x_TD.device().str());
  check(!rows.per_sample, "rms_norm: sums sample by sample have a CPU implementation only");
  if (!needs_graph(x_TD, weight_D))
    return std::get<0>(cuda_ops().rms_norm_forward(x_TD, weight_D, eps));
  return RmsNormCudaFunction::apply(x_TD, weight_D, eps);
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x_TD, const at::Tensor& weight_D, double eps,
                    const Segments& rows) {
  check_shape(x_TD, {-1, -1}, "rms_norm", "x_TD");
  check_shape(weight_D, {x_TD.size(1)}, "rms_norm", "weight_D");
  if (x_TD.is_cuda()) return rms_norm_cuda(x_TD, weight_D, eps, rows);
  check_like(weight_D, x_TD, "rms_norm", "weight_D");
  if (rows.per_sample) check_segments(rows, x_TD.size(0), "rms_norm");
  if (!needs_graph(x_TD, weight_D))
    return norm_forward(x_TD, weight_D, {}, eps, /*centre=*/false).y_TD;
  return RmsNormFunction::apply(x_TD, weight_D, eps, rows);
}

}  // namespace euromodal
