// slot_decoder.h — all of the Decoder of decoder.h that is the same wherever its kernels run:
// slots, pages, the kernels of a step one by one, draws. graph_decoder.h makes graphs of the steps;
// tests run it on the host over the emulated kernels. S slots, B rows of a bucket (1, 2, 4, ...
// 64), D width, H query heads, K key/value heads, N head width, F feed-forward width, V vocabulary.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "backbone/cuda/decode_weights.h"
#include "backbone/cuda/device_sampler.h"
#include "backbone/cuda/paged_cache.h"
#include "backbone/decoder.h"
#include "backbone/llama.h"

namespace euromodal {

/// Where kernels are launched.
struct Launches {
  std::function<cudaStream_t()> stream;  // the current one
  int multiprocessors = 1;
  bool pinned = false;                             // memory of the host that the device writes to
  std::function<int64_t()> free_memory = nullptr;  // bytes; asked for by cache_share
};

class SlotDecoder : public Decoder {
 public:
  SlotDecoder(const Llama& llama, const DecoderOptions& options, Launches launches);

  const Llama& llama() const override { return llama_; }
  KvLayout layout() const override { return cache_->layout(); }
  KvCache make_cache() override { return KvCache(cache_); }
  int64_t free_pages() const override { return cache_->free_pages(); }
  void begin(int64_t slot, KvCache cache, const at::Tensor& hidden_1D, int64_t longest) override;
  KvCache release(int64_t slot) override;
  void draw_by(int64_t slot, const SampleParams& rules,
               const std::vector<int64_t>& prompt) override;
  void draw(int64_t count) override;
  std::vector<int64_t> tokens() override;
  void give(const std::vector<int64_t>& tokens) override;
  void step(int64_t count) override;
  at::Tensor logits(int64_t count) const override;
  int64_t length(int64_t slot) const override;
  int64_t weight_bytes() const override;
  int64_t cache_bytes() const override { return cache_->bytes(); }

 protected:
  void run(int64_t bucket);  // the step's kernels on the current stream

 private:
  /// A step of so many rows, run() or what was recorded of it.
  virtual void launch(int64_t bucket) { run(bucket); }
  /// The host's copies of the last draw have been asked for; and: have come.
  virtual void mark_drawn() {}
  virtual void wait_drawn() {}

  int64_t bucket_of(int64_t count) const;
  int splits_of(int64_t B) const;  // of the attention
  void block(int64_t index, int64_t B);
  /// Of the normalised residual stream; y is left open.
  SkinnyLinearArgs from_hidden(const DecodeLinear& layer, const at::Tensor& norm_D) const;
  /// Of x, added to the residual stream.
  SkinnyLinearArgs onto_hidden(const DecodeLinear& layer, const at::Tensor& x) const;
  void linear(const DecodeLinear& layer, SkinnyLinearArgs args, int64_t B);
  /// What of the linear that comes after one its kernel asks for.
  SkinnyAhead ahead_of(const DecodeLinear& next, int64_t B,
                       SkinnyEpilogue epilogue = SkinnyEpilogue::kNone) const;
  void wide_linear(const DecodeLinear& layer, const SkinnyLinearArgs& args, int64_t B);

  const Llama& llama_;
  LlamaConfig config_;
  DecoderOptions options_;
  Launches launches_;
  std::vector<DecodeBlock> blocks_;
  DecodeLinear head_;
  std::shared_ptr<PagedCache> cache_;
  RopeTable table_;
  at::Tensor kv_scale_2_;
  std::vector<int64_t> lengths_;  // positions that each slot holds
  std::vector<std::optional<KvCache>> sequences_;

  // read and advanced by the graphs
  at::Tensor token_S_;  // i64
  at::Tensor length_S_,
      active_S_;  // i32: keys after the next step, or 0 without a sequence; 0 or 1
  at::Tensor logits_SV_, h_SD_, qkv_SO_, mixed_SHN_, inner_SF_, attention_workspace_;

  DeviceSampler sampler_;
  at::Tensor drawn_host_S_, logprob_host_S_;
  int64_t drawn_count_ = 0;
  bool drawn_by_rules_ = false;  // the last draw: by sampler_
};

}  // namespace euromodal
