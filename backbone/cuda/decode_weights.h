// decode_weights.h — the linears of a block as a decoding step reads them: fused, and quantised
// when asked for. O outputs, I inputs.
#pragma once
#include <cstdint>
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
  at::Tensor weight_OI;  // bf16: the model's own memory, for prompts and wide steps
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
/// any has one).
DecodeLinear fuse(const std::vector<const Linear*>& linears);
/// The weight in another form, from bf16. Error naming the layer for weights that are not finite,
/// or too large for the form.
void quantise(DecodeLinear& linear, const SkinnyForm& form, cudaStream_t stream);
/// The head stays bf16: only blocks are quantised.
std::vector<DecodeBlock> decode_blocks(const Llama& llama, const SkinnyForm& form,
                                       cudaStream_t stream);

}  // namespace euromodal
