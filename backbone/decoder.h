// decoder.h — a text backbone made ready to decode on a CUDA device: weights fused (q, k, v; gate,
// up) and, if wanted, quantised, keys and values in pages, one step of all sequences as a CUDA
// graph, tokens drawn on the device. Slots hold sequences; a step advances the first
// B of them together. Prompts go through the model's own passes, over caches in the decoder's
// pages.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/sample_token/sample_params.h"
#include "backbone/kernels/skinny_linear/skinny_weight.h"
#include "backbone/kv_cache.h"
#include "backbone/prefill.h"

namespace euromodal {

class Llama;

struct DecoderOptions {
  int64_t sequences = 1;      // slots
  int64_t max_positions = 0;  // of one sequence; 0: the model's own limit
  int64_t cache_tokens = 0;   // pages for so many positions in all; 0: sequences · max_positions
  double cache_share = 0.0;   // above 0: fewer pages where they would take more than this share of
                              // the memory that the weights leave free
  /// Of the blocks as decoding reads them; nothing: as they are (bf16, or codes of a packed folder,
  /// which nothing else is quantised to then). The head stays as it is, and so do bf16 weights for
  /// prompts and for steps of more than 16 sequences: they stay in memory beside the quantised
  /// ones.
  std::optional<SkinnyForm> weights{};
  bool fp8_cache = false;  // keys and values as e4m3
  bool graphs = true;      // false: the same kernels launched one by one
  /// Bytes of weights that kernels ask for in L2 before they can use them, of their own and of the
  /// next one's; nothing: kSkinnyL2Ahead.
  std::optional<int64_t> l2_ahead{};
};

class Decoder {
 public:
  virtual ~Decoder() = default;

  virtual const Llama& llama() const = 0;
  /// How its pages hold keys and values.
  virtual KvLayout layout() const = 0;
  /// An empty sequence in the decoder's pages, for forward_cached() and begin(). Error, there and
  /// here, when no pages are left.
  virtual KvCache make_cache() = 0;
  virtual int64_t free_pages() const = 0;

  /// Makes a sequence that the model has read the slot's (its former one is forgotten).
  /// `hidden_1D`: the row behind the final norm of its last position, whose logits become the
  /// slot's. `longest`: positions that it may reach; Error when the pages that are left do not hold
  /// them.
  virtual void begin(int64_t slot, KvCache cache, const at::Tensor& hidden_1D, int64_t longest) = 0;
  /// The same of a prompt [T, D] bf16, read in pieces of so many rows.
  void prefill(int64_t slot, const at::Tensor& emb_TD, int64_t longest,
               int64_t piece = kPrefillRows);
  /// Empties a slot -> its sequence with all positions whose tokens went through step(); one that
  /// nobody keeps gives its pages back. Of an empty slot: an empty one.
  virtual KvCache release(int64_t slot) = 0;
  /// How the slot's tokens are drawn from now on, its next draw being number 0; begin() goes back
  /// to the most likely token (the lowest id of equals). `prompt`: ids that the repetition penalty
  /// counts as seen; those outside the vocabulary count for nothing. Given tokens are not counted.
  virtual void draw_by(int64_t slot, const SampleParams& rules,
                       const std::vector<int64_t>& prompt) = 0;
  /// The next token of each of the first `count` slots, by its logits and rules; on the device,
  /// read by `tokens`.
  virtual void draw(int64_t count) = 0;
  /// The tokens of the last draw, [count]; waits for that draw alone, not for steps behind it. -1:
  /// an empty slot. Error when a slot with rules of its own had logits that are not finite.
  virtual std::vector<int64_t> tokens() = 0;
  /// Takes given tokens instead of drawn ones ([count], -1 for empty slots).
  virtual void give(const std::vector<int64_t>& tokens) = 0;
  /// Runs the model on the last tokens of the first `count` slots: their logits become those behind
  /// these tokens.
  virtual void step(int64_t count) = 0;
  /// [count, V] f32 on the device: overwritten by the next step.
  virtual at::Tensor logits(int64_t count) const = 0;
  /// Positions that a slot holds; 0: empty.
  virtual int64_t length(int64_t slot) const = 0;
  /// Bytes of weights that a step reads, and of the cache's pages.
  virtual int64_t weight_bytes() const = 0;
  virtual int64_t cache_bytes() const = 0;
};

/// For a bf16 model on a CUDA device, which must outlive it; its linears become views of the fused
/// weights. Error for another dtype or device, or when memory does not suffice.
std::unique_ptr<Decoder> make_decoder(const Llama& llama, const DecoderOptions& options);

}  // namespace euromodal
