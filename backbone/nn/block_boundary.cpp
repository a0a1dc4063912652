// block_boundary.cpp — see block_boundary.h.
#include "backbone/nn/block_boundary.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/engine.h>

#include "backbone/kernels/autograd.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct BoundaryState final : torch::CustomClassHolder {
  BoundaryState(int64_t index, bool at_exit, std::shared_ptr<OpenBlocks> list)
      : block(index), is_exit(at_exit), blocks(std::move(list)) {}
  int64_t block;
  bool is_exit;
  std::shared_ptr<OpenBlocks> blocks;
};

struct BoundaryFunction final : torch::autograd::Function<BoundaryFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TD,
                            const c10::intrusive_ptr<BoundaryState>& state) {
    ctx->saved_data["state"] = c10::IValue::make_capsule(state);
    return x_TD;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto state =
        c10::static_intrusive_pointer_cast<BoundaryState>(ctx->saved_data["state"].toCapsule());
    if (state->is_exit) {
      state->blocks->open(state->block);
      torch::autograd::Engine::get_default_engine().queue_callback(
          [state] { state->blocks->close(state->block); });
    } else {
      state->blocks->close(state->block);
    }
    return {grads[0], at::Tensor()};
  }
};

at::Tensor boundary_node(const at::Tensor& x_TD, int64_t block, bool exit,
                         std::shared_ptr<OpenBlocks> blocks) {
  if (blocks->hooks() == nullptr || !needs_graph(x_TD)) return x_TD;
  return BoundaryFunction::apply(
      x_TD, c10::make_intrusive<BoundaryState>(block, exit, std::move(blocks)));
}

}  // namespace

void OpenBlocks::open(int64_t block) {
  open_.at(static_cast<size_t>(block)) = 1;
  hooks_->before_backward(block);
}

void OpenBlocks::close(int64_t block) {
  if (open_.at(static_cast<size_t>(block)) == 0) return;
  open_[static_cast<size_t>(block)] = 0;
  hooks_->after_backward(block);
}

at::Tensor block_entry(const at::Tensor& x_TD, int64_t block, std::shared_ptr<OpenBlocks> blocks) {
  return boundary_node(x_TD, block, /*exit=*/false, std::move(blocks));
}

at::Tensor block_exit(const at::Tensor& y_TD, int64_t block, std::shared_ptr<OpenBlocks> blocks) {
  return boundary_node(y_TD, block, /*exit=*/true, std::move(blocks));
}

}  // namespace euromodal
