// vit_block.h — the pre-norm transformer block that Whisper, CLIP and SigLIP share, and its parts.
//   x += out(attention(LN x));  x += fc2(activation(fc1(LN x)))        bidirectional inside a
//   segment
// T packed rows of all items, D width, H heads, N head width.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/gelu/gelu_kind.h"
#include "backbone/kernels/segments.h"
#include "backbone/nn/checkpointing.h"
#include "backbone/nn/linear.h"
#include "backbone/weights/weights.h"

namespace euromodal {

using Activation = GeluKind;
/// transformers' names: gelu, gelu_pytorch_tanh, quick_gelu; else ConfigError naming `where`.
Activation parse_activation(const std::string& word, const std::string& where);
/// Elementwise. With rows.per_sample sample by sample: ATen's vector loops and their tails round
/// differently, and where the tails are depends on the number of elements.
at::Tensor activate(const at::Tensor& x_TF, Activation activation, const Segments& rows);

struct LinearShape {
  int64_t in, out;
  bool bias = true;
  bool zero = false;  // drawn as zeros: an output projection whose block starts as the identity
};
/// `NAME.weight` [O, I] and `NAME.bias` [O].
Linear take_linear(const WeightScope& weights, const std::string& name, const LinearShape& shape);

/// `NAME.weight` and `NAME.bias` [D].
struct NormLayer {
  at::Tensor weight_D, bias_D;
  double eps = 1e-5;
  static NormLayer take(const WeightScope& weights, const std::string& name, int64_t width,
                        double eps);
  at::Tensor operator()(const at::Tensor& x_TD, const Segments& rows) const;
  bool trains() const { return weight_D.requires_grad() || bias_D.requires_grad(); }
};

struct BlockShape {
  int64_t width, heads, ffn;
  double eps;
  Activation activation;
};

/// How a block's tensors are called on disk; attention is self_attn.{q,k,v,out}_proj everywhere.
struct BlockNames {
  const char* norm1;
  const char* norm2;
  const char* fc1;
  const char* fc2;
  bool key_bias;
};
inline constexpr BlockNames kVitBlockNames = {"layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2",
                                              true};
inline constexpr BlockNames kWhisperBlockNames = {"self_attn_layer_norm", "final_layer_norm", "fc1",
                                                  "fc2", false};

class EncoderBlock {
 public:
  EncoderBlock(const WeightScope& weights, const BlockShape& shape, const BlockNames& names);
  /// The three steps of StackPass (backbone/nn/block_stack.h): x_TD [T, D] -> [T, D] ...
  at::Tensor attend(const at::Tensor& x_TD, const Segments& rows, const DropoutKeys& dropout) const;
  /// ... mid_TD [T, D] -> [T, F] ...
  at::Tensor inner(const at::Tensor& mid_TD, const Segments& rows,
                   const DropoutKeys& dropout) const;
  /// ... and back: [T, D], [T, F] -> [T, D].
  at::Tensor outer(const at::Tensor& mid_TD, const at::Tensor& inner_TF, const Segments& rows,
                   const DropoutKeys& dropout) const;
  bool trains() const;
  bool outer_trains() const { return fc2_.trains(); }
  /// q, k, v, out, fc1, fc2.
  std::vector<Linear> linears() const { return {q_, k_, v_, out_, fc1_, fc2_}; }

 private:
  BlockShape shape_;
  NormLayer norm1_, norm2_;
  Linear q_, k_, v_, out_, fc1_, fc2_;
};

/// What the blocks of one pass share; `blocks` outlive the pass, and with it the graph.
struct EncoderPassShared {
  const std::vector<EncoderBlock>& blocks;
  Segments rows;
  DropoutKeys dropout = {};
};

/// x_TD [T, D] through the first `count` blocks -> [T, D].
at::Tensor run_encoder_blocks(EncoderPassShared shared, int64_t count, Checkpointing checkpointing,
                              const at::Tensor& x_TD);

}  // namespace euromodal
