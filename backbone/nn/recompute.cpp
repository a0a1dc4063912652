// recompute.cpp — see recompute.h.
#include "backbone/nn/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RecomputeHolder final : torch::CustomClassHolder {
  explicit RecomputeHolder(RecomputeFn f) : fn(std::move(f)) {}
  RecomputeFn fn;
};

struct RecomputeFunction final : torch::autograd::Function<RecomputeFunction> {
  /// `anchor` requires grad: without it an x that needs none would leave the parameters of fn
  /// without a graph.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_TD,
                               const at::Tensor& /*anchor*/,
                               const c10::intrusive_ptr<RecomputeHolder>& holder) {
    ctx->save_for_backward({x_TD});
    ctx->saved_data["fn"] = c10::IValue::make_capsule(holder);
    ctx->set_materialize_grads(false);
    return holder->fn(x_TD, /*again=*/false);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto holder =
        c10::static_intrusive_pointer_cast<RecomputeHolder>(ctx->saved_data["fn"].toCapsule());
    const at::Tensor x_TD =
        ctx->get_saved_variables()[0].detach().requires_grad_(ctx->needs_input_grad(0));
    variable_list outputs, output_grads;
    {
      const at::AutoGradMode graph(true);  // the engine turned it off
      const variable_list all = holder->fn(x_TD, /*again=*/true);
      for (size_t i = 0; i < all.size(); ++i) {
        if (!grads[i].defined() || !all[i].requires_grad()) continue;
        outputs.push_back(all[i]);
        output_grads.push_back(grads[i]);
      }
    }
    if (!outputs.empty()) torch::autograd::backward(outputs, output_grads);
    return {x_TD.grad(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

std::vector<at::Tensor> recompute(const at::Tensor& x_TD, const RecomputeFn& fn) {
  if (!at::GradMode::is_enabled()) return fn(x_TD, /*again=*/false);
  const at::Tensor anchor = at::empty({0}, x_TD.options()).requires_grad_(true);
  return RecomputeFunction::apply(x_TD, anchor, c10::make_intrusive<RecomputeHolder>(fn));
}

}  // namespace euromodal
