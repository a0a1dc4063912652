// llama_prefixed.cpp — see llama_prefixed.h.
#include "backbone/llama_prefixed.h"

#include <unordered_map>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

namespace euromodal {

/// Whole prefixes, packed, block by block; remembers keys and values.
class LlamaPrefixes::Pass final : public LlamaPass {
 public:
  Pass(LlamaPassShared shared, at::Tensor x_PD)
      : LlamaPass(std::move(shared)), x_PD_(std::move(x_PD)) {}

  void run_up_to(int64_t block) {
    const c10::NoGradGuard no_graph;
    while (static_cast<int64_t>(kv_.size()) <= block) {
      const auto next = static_cast<int64_t>(kv_.size());
      const at::Tensor mid_PD = attend(next, x_PD_);
      x_PD_ = outer(next, mid_PD, inner(next, mid_PD));
    }
  }
  AttentionPrefix kv(int64_t block, int64_t begin, int64_t length) const {
    const AttentionPrefix& all = kv_.at(static_cast<size_t>(block));
    return {all.k_PKN.narrow(0, begin, length), all.v_PKN.narrow(0, begin, length)};
  }
  int64_t blocks() const { return static_cast<int64_t>(kv_.size()); }
  const at::Tensor& x_PD() const { return x_PD_; }

 private:
  at::Tensor mix(int64_t block, const Heads& heads) const override {
    kv_.push_back({heads.k_TKN, heads.v_TKN});
    return LlamaPass::mix(block, heads);
  }
  at::Tensor x_PD_;
  mutable std::vector<AttentionPrefix> kv_;  // by block
};

LlamaPrefixes::LlamaPrefixes(const LlamaPassShared& whole, const at::Tensor& emb_TD,
                             const std::vector<ConstantPrefix>& prefixes, PrefixCache& cache) {
  std::unordered_map<std::string, size_t> fresh_of;
  std::vector<at::Tensor> x, positions;
  std::vector<int64_t> lengths;
  int64_t begin = 0;
  for (size_t s = 0; s < prefixes.size(); ++s) {
    const ConstantPrefix& prefix = prefixes[s];
    sources_.push_back({cache.find(prefix.key), fresh_.size(), prefix.length});
    Source& source = sources_.back();
    if (source.length == 0 || source.kept) continue;
    if (!prefix.key.empty()) {
      const auto [known, added] = fresh_of.try_emplace(prefix.key, fresh_.size());
      source.fresh = known->second;
      if (!added) continue;
    }
    const int64_t row = whole.rows.begin(static_cast<int64_t>(s));
    fresh_.push_back({prefix.key, begin, prefix.length});
    x.push_back(emb_TD.detach().narrow(0, row, prefix.length));
    positions.push_back(whole.positions_T.narrow(0, row, prefix.length));
    lengths.push_back(prefix.length);
    begin += prefix.length;
  }
  if (fresh_.empty()) return;
  pass_ = std::make_unique<Pass>(
      LlamaPassShared{whole.blocks, whole.config, whole.table, at::cat(positions),
                      Segments::from_lengths(lengths, whole.rows.per_sample)},
      at::cat(x));
}

LlamaPrefixes::~LlamaPrefixes() = default;

std::vector<AttentionPrefix> LlamaPrefixes::at_block(int64_t block) const {
  if (pass_) pass_->run_up_to(block);
  std::vector<AttentionPrefix> out;
  for (const Source& source : sources_) {
    if (source.length == 0) {
      out.emplace_back();
    } else if (source.kept) {
      out.push_back(source.kept->kv.at(static_cast<size_t>(block)));
    } else {
      const Fresh& fresh = fresh_[source.fresh];
      out.push_back(pass_->kv(block, fresh.begin, fresh.length));
    }
  }
  return out;
}

void LlamaPrefixes::keep(PrefixCache& cache) const {
  for (const Fresh& fresh : fresh_) {
    if (fresh.key.empty()) continue;
    auto state = std::make_shared<PrefixState>();
    for (int64_t block = 0; block < pass_->blocks(); ++block) {
      const AttentionPrefix kv = pass_->kv(block, fresh.begin, fresh.length);
      // copies: a slice keeps the whole pack alive
      state->kv.push_back({kv.k_PKN.clone(), kv.v_PKN.clone()});
    }
    state->x_PD = pass_->x_PD().narrow(0, fresh.begin, fresh.length).clone();
    cache.insert(fresh.key, std::move(state));
  }
}

at::Tensor LlamaPrefixes::rows_of(int64_t sample) const {
  const Source& source = sources_.at(static_cast<size_t>(sample));
  if (source.kept) return source.kept->x_PD;
  const Fresh& fresh = fresh_[source.fresh];
  return pass_->x_PD().narrow(0, fresh.begin, fresh.length);
}

at::Tensor LlamaPrefixedPass::mix(int64_t block, const Heads& heads) const {
  return attention({.q_THN = heads.q_THN,
                    .k_TKN = heads.k_TKN,
                    .v_TKN = heads.v_TKN,
                    .causal = true,
                    .scale = scale(),
                    .prefix = prefixes_->at_block(block)},
                   rows());
}

}  // namespace euromodal
