// decode_weights.h — the linears of a block as a decoding step reads them: fused, and quantised
// when asked for. O outputs, I inputs.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/decoder.h"
#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"
#include "backbone/llama.h"

namespace euromodal {

struct DecodeLinear {
  at::Tensor weight_OI;     // bf16: the model's own memory
  at::Tensor codes, scale;  // quantised: as skinny_linear_kernel.h documents
  at::Tensor bias_O;
  DType type = DType::kBf16;
  int group = 0;

  int64_t outputs() const { return weight_OI.size(0); }
  int64_t inputs() const { return weight_OI.size(1); }
  int64_t bytes() const;  // what a step reads
  /// The weight's part of the kernel's arguments.
  SkinnyLinearArgs arguments() const;
};

struct DecodeBlock {
  DecodeLinear qkv, o, gate_up, down;
};

/// One weight [sum of O, I] that holds those of `linears`, which become views of it (and biases, if
/// any has one).
DecodeLinear fuse(const std::vector<const Linear*>& linears);
/// Adds the quantised form.
void quantise(DecodeLinear& linear, DecodeWeights form);
std::vector<DecodeBlock> decode_blocks(const Llama& llama, DecodeWeights form);

}  // namespace euromodal
