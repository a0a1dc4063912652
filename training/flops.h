// flops.h — floating-point operations that a step needs by its formulas, for the model FLOPs
// utilisation (MFU): 2 per matrix parameter and row forward, 2 more where gradients flow through,
// 2 more where the matrix itself is trained: 6N for what is trained, 4N for a frozen backbone
// behind trained adapters. What is recomputed does not count. (PaLM, arXiv:2204.02311, appendix B.)
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/weights/weights.h"

namespace euromodal {

/// One stack that rows pass through.
struct StackCost {
  int64_t matmul = 0;           // parameters of its matrices
  int64_t trained = 0;          // of these, those that are trained
  int64_t attention_width = 0;  // layers × heads × head width; 0: no attention
  bool causal = false;          // each row looks at half of the rows
  bool backward = false;        // gradients flow through it
};

/// The matrices (two or more dimensions) among the parameters whose names begin with `prefix`.
StackCost count_matrices(const std::vector<NamedTensor>& parameters, const std::string& prefix);

/// One sample of `rows` rows. Attention: 4 · rows² · width forward (half of it when causal), twice
/// that backward.
double stack_flops(const StackCost& cost, int64_t rows);

/// Operations per second of a square matrix product in `dtype` on this device now, the best of a
/// few: 512 wide on the CPU, 8192 on a GPU.
double measure_peak_flops(at::ScalarType dtype, at::Device device = at::kCPU);

}  // namespace euromodal
