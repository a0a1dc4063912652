// recompute.h — a part of the graph that keeps its input only and is computed again in the backward
// pass (Chen et al. 2016, arXiv:1604.06174). T packed rows, D width.
#pragma once
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace euromodal {

/// A pure function of x, of parameters that it holds and of seeds: called twice, the same bits.
/// `again`: the call of the backward pass.
using RecomputeFn = std::function<std::vector<at::Tensor>(const at::Tensor& x_TD, bool again)>;

/// fn(x_TD). With a graph, nothing of it but x_TD is kept; parameters of fn get their gradients
/// when the backward pass calls fn again. x_TD may need no gradient (then only parameters get one).
std::vector<at::Tensor> recompute(const at::Tensor& x_TD, const RecomputeFn& fn);

}  // namespace euromodal
