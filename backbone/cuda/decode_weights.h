// decode_weights.h — the linears of a block as a decoding step reads them: fused, and quantised
// when the model is or that is asked for. O outputs, I inputs.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <cuda_runtime_api.h>

#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"
#include "backbone/kernels/skinny_linear/skinny_weight.h"
#include "backbone/llama.h"

namespace euromodal {

struct DecodeLinear {
  std::string name;      // of the first of its layers
  at::Tensor weight_OI;  // bf16, for wide steps: the model's own memory, if it has plain weights
  SkinnyWeight weight;   // what a step reads
  at::Tensor bias_O;

  int64_t outputs() const { return weight.outputs; }
  int64_t inputs() const { return weight.inputs; }
  int64_t bytes() const { return weight.bytes(); }  // what a step reads
  /// The weight's part of the kernel's arguments.
  SkinnyLinearArgs arguments() const;
};

struct DecodeBlock {
  DecodeLinear qkv, o, gate_up, down;
};

/// One weight [sum of O, I] that holds those of `linears`, which become views of it (and biases, if
/// any has one). Plain weights are bf16 and, with `form`, quantised beside that. Codes of one form
/// stay what they are; with `form` they must be of that (Error naming the layer), and plain
/// neighbours become codes too; without it codes and their neighbours of other forms become bf16,
/// which the log says. Error naming the layer for weights that are not finite, or too large.
DecodeLinear fuse(std::span<const Linear* const> linears, const std::optional<SkinnyForm>& form,
                  cudaStream_t stream);
std::vector<DecodeBlock> decode_blocks(const Llama& llama, const std::optional<SkinnyForm>& form,
                                       cudaStream_t stream);

}  // namespace euromodal
