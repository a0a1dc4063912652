// graph_decoder.h — the Decoder of decoder.h: kernels of backbone/kernels, one CUDA graph for each
// bucket of 1, 2, 4, ... 64 rows. S slots, B rows of a bucket, D width, H query heads, K key/value
// heads, N head width, F feed-forward width, V vocabulary.
#pragma once
#include <memory>
#include <vector>

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>

#include "backbone/cuda/decode_weights.h"
#include "backbone/cuda/device_sampler.h"
#include "backbone/cuda/paged_cache.h"
#include "backbone/decoder.h"
#include "backbone/llama.h"

namespace euromodal {

class GraphDecoder final : public Decoder {
 public:
  GraphDecoder(const Llama& llama, const DecoderOptions& options);

  void prefill(int64_t slot, const at::Tensor& emb_TD, int64_t longest) override;
  void release(int64_t slot) override;
  void draw_by(int64_t slot, const SampleParams& rules,
               const std::vector<int64_t>& prompt) override;
  void draw(int64_t count) override;
  std::vector<int64_t> tokens() override;
  void give(const std::vector<int64_t>& tokens) override;
  void step(int64_t count) override;
  at::Tensor logits(int64_t count) const override;
  int64_t length(int64_t slot) const override;
  int64_t weight_bytes() const override;
  int64_t cache_bytes() const override { return cache_.bytes(); }

 private:
  int64_t bucket_of(int64_t count) const;
  int splits_of(int64_t B) const;  // of the attention
  void run(int64_t bucket);        // the step's kernels on the current stream
  void block(int64_t index, int64_t B);
  /// Of the normalised residual stream; y is left open.
  SkinnyLinearArgs from_hidden(const DecodeLinear& layer, const at::Tensor& norm_D) const;
  /// Of x, added to the residual stream.
  SkinnyLinearArgs onto_hidden(const DecodeLinear& layer, const at::Tensor& x) const;
  void linear(const DecodeLinear& layer, SkinnyLinearArgs args, int64_t B);
  void wide_linear(const DecodeLinear& layer, const SkinnyLinearArgs& args, int64_t B);
  void capture();

  const Llama& llama_;
  LlamaConfig config_;
  DecoderOptions options_;
  std::vector<DecodeBlock> blocks_;
  DecodeLinear head_;
  PagedCache cache_;
  RopeTable table_;
  at::Tensor kv_scale_2_;
  std::vector<int64_t> lengths_;  // positions that each slot holds

  // read and advanced by the graphs
  at::Tensor token_S_;                           // i64
  at::Tensor position_S_, length_S_, active_S_;  // i32: next position, keys then, 0 or 1
  at::Tensor slot_S_;                            // i32 0, 1, 2, ...
  at::Tensor logits_SV_, h_SD_, qkv_SO_, q_SHN_, mixed_SHN_, inner_SF_, attention_workspace_;

  DeviceSampler sampler_;
  at::Tensor drawn_host_S_, logprob_host_S_;  // pinned
  at::cuda::CUDAEvent drawn_;
  int64_t drawn_count_ = 0;
  bool drawn_by_rules_ = false;  // the last draw: by sampler_

  std::vector<std::unique_ptr<at::cuda::CUDAGraph>> graphs_;  // of bucket 1 << i
};

}  // namespace euromodal
