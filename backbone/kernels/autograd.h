// autograd.h — what the operators' autograd Functions share. Include in .cpp files only.
#pragma once
#include <torch/csrc/autograd/custom_function.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

/// Does a call with these tensors need a graph? Without one the operators skip the Function.
template <typename... Tensors>
bool needs_graph(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && ((tensors.defined() && tensors.requires_grad()) || ...);
}

inline void save_segments(torch::autograd::AutogradContext* ctx, const Segments& rows) {
  ctx->saved_data["cu"] = rows.cu;
  ctx->saved_data["per_sample"] = rows.per_sample;
}

inline Segments saved_segments(torch::autograd::AutogradContext* ctx) {
  return {ctx->saved_data["cu"].toIntVector(), ctx->saved_data["per_sample"].toBool()};
}

}  // namespace euromodal
