// vit_block.cpp — the shared pre-norm block on the project's kernels.
#include "encoders/vit_block.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include <ATen/ATen.h>

#include "backbone/kernels/ops.h"
#include "backbone/nn/block_stack.h"
#include "core/error.h"

namespace euromodal {

Activation parse_activation(const std::string& word, const std::string& where) {
  if (word == "gelu") return Activation::kGelu;
  if (word == "gelu_pytorch_tanh" || word == "gelu_new") return Activation::kGeluTanh;
  if (word == "quick_gelu") return Activation::kQuickGelu;
  throw ConfigError("{}: got {}, expected gelu, gelu_pytorch_tanh or quick_gelu", where, word);
}

at::Tensor activate(const at::Tensor& x_TF, Activation activation, const Segments& rows) {
  if (!rows.per_sample || rows.count() == 1) return gelu(x_TF, activation);
  std::vector<at::Tensor> parts;
  for (int64_t s = 0; s < rows.count(); ++s)
    parts.push_back(gelu(x_TF.narrow(0, rows.begin(s), rows.length(s)), activation));
  return at::cat(parts);
}

Linear take_linear(const WeightScope& weights, const std::string& name, const LinearShape& shape) {
  const double std = 1.0 / std::sqrt(static_cast<double>(shape.in));
  const at::Tensor weight_OI = weights.take(name + ".weight", {shape.out, shape.in},
                                            shape.zero ? Init::zeros() : Init::normal(std));
  const at::Tensor bias_O =
      shape.bias ? weights.take(name + ".bias", {shape.out}, Init::zeros()) : at::Tensor();
  return {weights.prefix() + name, weight_OI, bias_O};
}

NormLayer NormLayer::take(const WeightScope& weights, const std::string& name, int64_t width,
                          double eps) {
  return {weights.take(name + ".weight", {width}, Init::ones()),
          weights.take(name + ".bias", {width}, Init::zeros()), eps};
}

at::Tensor NormLayer::operator()(const at::Tensor& x_TD, const Segments& rows) const {
  return layer_norm(x_TD, weight_D, bias_D, eps, rows);
}

EncoderBlock::EncoderBlock(const WeightScope& weights, const BlockShape& shape,
                           const BlockNames& names)
    : shape_(shape) {
  const int64_t d = shape.width;
  norm1_ = NormLayer::take(weights, names.norm1, d, shape.eps);
  q_ = take_linear(weights, "self_attn.q_proj", {.in = d, .out = d});
  k_ = take_linear(weights, "self_attn.k_proj", {.in = d, .out = d, .bias = names.key_bias});
  v_ = take_linear(weights, "self_attn.v_proj", {.in = d, .out = d});
  out_ = take_linear(weights, "self_attn.out_proj", {.in = d, .out = d, .zero = true});
  norm2_ = NormLayer::take(weights, names.norm2, d, shape.eps);
  fc1_ = take_linear(weights, names.fc1, {.in = d, .out = shape.ffn});
  fc2_ = take_linear(weights, names.fc2, {.in = shape.ffn, .out = d, .zero = true});
}

at::Tensor EncoderBlock::attend(const at::Tensor& x_TD, const Segments& rows,
                                const DropoutKeys& dropout) const {
  const int64_t head = shape_.width / shape_.heads;
  const at::Tensor normed_TD = norm1_(x_TD, rows);
  const auto split = [&](const Linear& layer) {
    return layer(normed_TD, rows, dropout).view({-1, shape_.heads, head});
  };
  const at::Tensor mixed_THN = attention({.q_THN = split(q_),
                                          .k_TKN = split(k_),
                                          .v_TKN = split(v_),
                                          .causal = false,
                                          .scale = 1.0 / std::sqrt(static_cast<double>(head))},
                                         rows);
  return x_TD + out_(mixed_THN.reshape({-1, shape_.width}), rows, dropout);
}

at::Tensor EncoderBlock::inner(const at::Tensor& mid_TD, const Segments& rows,
                               const DropoutKeys& dropout) const {
  return activate(fc1_(norm2_(mid_TD, rows), rows, dropout), shape_.activation, rows);
}

at::Tensor EncoderBlock::outer(const at::Tensor& mid_TD, const at::Tensor& inner_TF,
                               const Segments& rows, const DropoutKeys& dropout) const {
  return mid_TD + fc2_(inner_TF, rows, dropout);
}

bool EncoderBlock::trains() const {
  if (norm1_.trains() || norm2_.trains()) return true;
  const std::vector<Linear> all = linears();
  return std::any_of(all.begin(), all.end(), [](const Linear& layer) { return layer.trains(); });
}

namespace {

class EncoderPass final : public StackPass {
 public:
  explicit EncoderPass(EncoderPassShared shared) : shared_(std::move(shared)) {}
  at::Tensor attend(int64_t block, const at::Tensor& x_TD) const override {
    return at(block).attend(x_TD, shared_.rows, shared_.dropout);
  }
  at::Tensor inner(int64_t block, const at::Tensor& mid_TD) const override {
    return at(block).inner(mid_TD, shared_.rows, shared_.dropout);
  }
  at::Tensor outer(int64_t block, const at::Tensor& mid_TD,
                   const at::Tensor& inner_TF) const override {
    return at(block).outer(mid_TD, inner_TF, shared_.rows, shared_.dropout);
  }
  bool trains(int64_t block) const override { return at(block).trains(); }
  bool outer_trains(int64_t block) const override { return at(block).outer_trains(); }

 private:
  const EncoderBlock& at(int64_t block) const { return shared_.blocks[static_cast<size_t>(block)]; }
  EncoderPassShared shared_;
};

}  // namespace

at::Tensor run_encoder_blocks(EncoderPassShared shared, int64_t count, Checkpointing checkpointing,
                              const at::Tensor& x_TD) {
  const auto pass = std::make_shared<EncoderPass>(std::move(shared));
  return run_stack({pass, {0, count}, checkpointing, nullptr}, x_TD);
}

}  // namespace euromodal
