// llama.h — the EuroLLM text backbone (Llama architecture: RMSNorm, RoPE, grouped-query attention,
// SwiGLU). Reference: transformers 5.23 LlamaForCausalLM. T packed rows, D width, V vocabulary.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"
#include "backbone/kv_cache.h"
#include "backbone/llama_block.h"
#include "backbone/llama_config.h"
#include "backbone/nn/block_hooks.h"
#include "backbone/nn/checkpointing.h"
#include "backbone/nn/linear.h"
#include "backbone/prefix_cache.h"
#include "backbone/weights/weights.h"

namespace euromodal {

class Llama {
 public:
  /// Takes `model.embed_tokens.weight`, `model.layers.N...`, `model.norm.weight`, `lm_head.weight`
  /// (none when tied) below `weights`. Drawn weights: tables N(0, 0.02), blocks as llama_block.h.
  Llama(const LlamaConfig& config, const WeightScope& weights);
  ~Llama();
  Llama(Llama&&) noexcept;
  Llama& operator=(Llama&&) noexcept;

  const LlamaConfig& config() const;
  /// What forward() keeps of its blocks for the backward pass from now on; at first everything.
  void set_checkpointing(Checkpointing checkpointing);
  /// Called around every block of every pass from now on, in both directions (block i's tensors are
  /// those below "model.layers.i."); null: nobody.
  void set_block_hooks(std::shared_ptr<BlockHooks> hooks);
  /// ids_T [T] i64 inside the vocabulary (checked: DataError names id and size) -> [T, D].
  at::Tensor embed(const at::Tensor& ids_T, const Segments& rows) const;
  /// Packed samples, positions restart in each: emb_TD [T, D] -> final-norm hidden rows [T, D].
  /// Differentiable.
  /// `dropout`: in training, for the LoRA of its linears.
  at::Tensor forward(const at::Tensor& emb_TD, const Segments& rows,
                     const DropoutKeys& dropout = {}) const;
  /// The same, where the first rows of each sample are constants (one entry per sample, 0 rows for
  /// none). As far up as nothing trains they have no graph and cost no backward pass, and what
  /// `cache` has of them is not computed at all. A prefix has its own matrix products: sums may
  /// differ in their last bits from the form above, but not with what the cache holds, nor, with
  /// rows.per_sample, with how samples are packed.
  at::Tensor forward(const at::Tensor& emb_TD, const Segments& rows,
                     const std::vector<ConstantPrefix>& prefixes, PrefixCache& cache,
                     const DropoutKeys& dropout = {}) const;
  /// The next T positions of one sequence, over its cache; no gradient. -> [T, D] after the final
  /// norm.
  at::Tensor forward_cached(const at::Tensor& emb_TD, KvCache& cache) const;
  /// The next positions of several sequences at once, one segment and one cache each (no cache
  /// twice).
  at::Tensor forward_cached(const at::Tensor& emb_TD, const Segments& rows,
                            std::span<KvCache* const> caches) const;
  /// hidden_RD -> logits [R, V] in f32.
  at::Tensor logits(const at::Tensor& hidden_RD) const;
  const at::Tensor& embedding_VD() const;
  const at::Tensor& head_VD() const;  // the embedding itself when tied; [0] once packed
  const at::Tensor& final_norm_D() const;
  const std::vector<LlamaBlock>& blocks() const;
  /// cos and sin of at least `positions` positions, on the model's device.
  RopeTable rope_for(int64_t positions) const;
  /// The head as a layer, for its LoRA: "lm_head".
  const Linear& head() const;
  /// The linears of all blocks in order: q, k, v, o, gate, up and down of each; then the head,
  /// unless it is the embedding itself.
  const std::vector<Linear>& linears() const;
  /// An empty cache of one sequence, on the model's device; `int8` as KvCache has it.
  KvCache make_cache(bool int8 = false) const;
  /// How make_cache() stores positions on the CPU.
  KvLayout cache_layout(bool int8 = false) const;
  at::ScalarType dtype() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A text model folder: config.json + safetensors, loaded strictly; or a GGUF file (gguf_model.h).
/// `dtype` as --dtype (undefined = what the contract says: f32 files in f32, else the file's). A
/// LoRA that the folder holds (lora.h) is put on its linears; it is not among `parameters`.
struct TextModel {
  LlamaConfig config;
  std::unique_ptr<Llama> llama;
  std::vector<NamedTensor> parameters;
};
TextModel load_text_model(const std::filesystem::path& dir, std::optional<at::ScalarType> dtype);
/// Freshly drawn (training from scratch).
TextModel random_text_model(const LlamaConfig& config, uint64_t seed);
/// config.json, generation_config.json and safetensors (no tokenizer).
void save_text_model(const std::filesystem::path& dir, const LlamaConfig& config,
                     const std::vector<NamedTensor>& parameters);

}  // namespace euromodal
