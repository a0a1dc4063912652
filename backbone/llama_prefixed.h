// llama_prefixed.h — packed samples whose first rows are constants: those go through the frozen
// blocks without a graph, or not at all where a cache has them, and the rows behind attend to their
// keys and values. T rows, R of them behind prefixes, P in one prefix, D width.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/llama_block.h"
#include "backbone/prefix_cache.h"

namespace euromodal {

/// The prefixes of one pack. Each block is run where a pass over the other rows asks for it.
class LlamaPrefixes {
 public:
  /// `whole`: of all T rows, prefixes included; prefixes: one per sample.
  LlamaPrefixes(const LlamaPassShared& whole, const at::Tensor& emb_TD,
                const std::vector<ConstantPrefix>& prefixes, PrefixCache& cache);
  ~LlamaPrefixes();
  /// Keys and values of every sample's prefix in `block`. The first calls go up block by block.
  std::vector<AttentionPrefix> at_block(int64_t block) const;
  /// After the last block: gives the cache what was computed here.
  void keep(PrefixCache& cache) const;
  /// After the last block: the prefix rows [P, D] of a sample that has some.
  at::Tensor rows_of(int64_t sample) const;

 private:
  class Pass;
  struct Fresh {  // not in the cache; equal keys once
    std::string key;
    int64_t begin = 0, length = 0;  // rows of pass_
  };
  struct Source {
    std::shared_ptr<const PrefixState> kept;  // null: fresh_[fresh]
    size_t fresh = 0;
    int64_t length = 0;
  };
  std::vector<Source> sources_;  // by sample
  std::vector<Fresh> fresh_;
  std::unique_ptr<Pass> pass_;  // null: nothing to compute
};

/// The rows behind the prefixes.
class LlamaPrefixedPass final : public LlamaPass {
 public:
  LlamaPrefixedPass(LlamaPassShared rest, std::shared_ptr<const LlamaPrefixes> prefixes)
      : LlamaPass(std::move(rest)), prefixes_(std::move(prefixes)) {}

 private:
  at::Tensor mix(int64_t block, const Heads& heads) const override;
  std::shared_ptr<const LlamaPrefixes> prefixes_;
};

}  // namespace euromodal
