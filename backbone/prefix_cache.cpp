// prefix_cache.cpp — see prefix_cache.h.
#include "backbone/prefix_cache.h"

namespace euromodal {

int64_t PrefixState::bytes() const {
  size_t out = x_PD.nbytes();
  for (const AttentionPrefix& block : kv) out += block.k_PKN.nbytes() + block.v_PKN.nbytes();
  return static_cast<int64_t>(out);
}

void PrefixCache::set_blocks(int64_t blocks) {
  if (blocks == blocks_) return;
  blocks_ = blocks;
  bytes_ = 0;
  entries_.clear();
  by_key_.clear();
}

std::shared_ptr<const PrefixState> PrefixCache::find(const std::string& key) {
  const auto found = by_key_.find(key);
  if (key.empty() || found == by_key_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->state;
}

void PrefixCache::insert(const std::string& key, std::shared_ptr<const PrefixState> state) {
  const int64_t size = state->bytes();
  if (key.empty() || size > max_bytes_ || by_key_.contains(key)) return;
  while (bytes_ + size > max_bytes_) {
    bytes_ -= entries_.back().state->bytes();
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
  entries_.push_front({key, std::move(state)});
  by_key_[key] = entries_.begin();
  bytes_ += size;
}

}  // namespace euromodal
