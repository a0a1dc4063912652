// llama_block.h — one block of the text backbone and the two ways through it: over packed samples
// and over a cache. Reference: transformers 5.23 LlamaDecoderLayer. T packed rows, D width, H query
// heads, K key/value heads, N head width, F feed-forward width.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/rope/rope.h"
#include "backbone/kernels/segments.h"
#include "backbone/kv_cache.h"
#include "backbone/llama_config.h"
#include "backbone/nn/block_stack.h"
#include "backbone/nn/linear.h"
#include "backbone/weights/weights.h"

namespace euromodal {

struct LlamaBlock {
  at::Tensor input_norm_D, post_norm_D;
  Linear q, k, v, o, gate, up, down;
  /// Takes the tensors below "layers.N.". Drawn: variance 1/fan_in; what writes into the residual
  /// stream starts at zero, so that a fresh model is the identity on its embeddings.
  static LlamaBlock take(const WeightScope& weights, const LlamaConfig& config);
  std::array<const Linear*, 7> linears() const { return {&q, &k, &v, &o, &gate, &up, &down}; }
  bool trains() const;
};

/// Names of packed weights in a folder end so: "model.layers.0.self_attn.q_proj.weight.packed".
inline constexpr const char* kPackedSuffix = ".weight.packed";

/// The packed weight of the linear `name`, out x in.
PackedWeight take_packed(const WeightScope& layer, const std::string& name, int64_t out, int64_t in,
                         const PackedForm& form);

/// What all blocks of one pass share.
struct LlamaPassShared {
  const std::vector<LlamaBlock>& blocks;  // outlive the pass, and with it the graph
  const LlamaConfig& config;
  RopeTable table;
  at::Tensor positions_T;  // [T] i64
  Segments rows;
  DropoutKeys dropout = {};
};

/// Packed samples, causal inside each. Differentiable.
class LlamaPass : public StackPass {
 public:
  explicit LlamaPass(LlamaPassShared shared);
  at::Tensor attend(int64_t block, const at::Tensor& x_TD) const final;
  at::Tensor inner(int64_t block, const at::Tensor& mid_TD) const final;
  at::Tensor outer(int64_t block, const at::Tensor& mid_TD, const at::Tensor& inner_TF) const final;
  bool trains(int64_t block) const final { return at(block).trains(); }
  bool outer_trains(int64_t block) const final { return at(block).down.trains(); }

 protected:
  struct Heads {
    at::Tensor q_THN, k_TKN, v_TKN;  // rotated
  };
  /// -> [T, H, N].
  virtual at::Tensor mix(int64_t block, const Heads& heads) const;
  const Segments& rows() const { return shared_.rows; }
  double scale() const { return scale_; }

 private:
  const LlamaBlock& at(int64_t block) const;
  at::Tensor apply(const Linear& linear, const at::Tensor& x_TI) const {
    return linear(x_TI, shared_.rows, shared_.dropout);
  }
  /// Layers of the same inputs.
  std::vector<at::Tensor> apply(std::span<const Linear* const> linears,
                                const at::Tensor& x_TI) const {
    return apply_together(linears, x_TI, shared_.rows, shared_.dropout);
  }
  LlamaPassShared shared_;
  double scale_;  // 1 / sqrt(N)
};

/// The next positions of sequences, over their caches (one per segment), which they are appended
/// to. No gradient.
class LlamaCachedPass final : public LlamaPass {
 public:
  LlamaCachedPass(LlamaPassShared shared, std::vector<KvCache*> caches);

 private:
  at::Tensor mix(int64_t block, const Heads& heads) const override;
  std::vector<KvCache*> caches_;
};

}  // namespace euromodal
