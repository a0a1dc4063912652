// gelu.cpp — the CPU takes ATen's vectorised loops (gelu_ref), CUDA its own kernels.
#include "backbone/kernels/gelu/gelu.h"

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/gelu/gelu_ref.h"
#include "core/error.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct GeluCudaFunction final : torch::autograd::Function<GeluCudaFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, int64_t kind) {
    ctx->save_for_backward({x});
    ctx->saved_data["kind"] = kind;
    return cuda_ops().gelu_forward(x, static_cast<GeluKind>(kind));
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto kind = static_cast<GeluKind>(ctx->saved_data["kind"].toInt());
    return {cuda_ops().gelu_backward(grads[0], ctx->get_saved_variables()[0], kind), at::Tensor()};
  }
};

}  // namespace

at::Tensor gelu(const at::Tensor& x, GeluKind kind) {
  check(x.defined(), "gelu: x is undefined");
  if (!x.is_cuda()) return gelu_ref(x, kind);
  if (!needs_graph(x)) return cuda_ops().gelu_forward(x, kind);
  return GeluCudaFunction::apply(x, static_cast<int64_t>(kind));
}

}  // namespace euromodal
