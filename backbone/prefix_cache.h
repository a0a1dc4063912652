// prefix_cache.h — what frozen blocks make of constant rows at the head of samples (a system
// prompt, the head of a chat template): keys and values of every block, kept over the steps of a
// run. P rows of a prefix, D width, K key/value heads, N head width.
#pragma once
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/attention/attention.h"

namespace euromodal {

/// Rows [0, length) of a sample whose inputs are constants: no gradient is wanted below them.
struct ConstantPrefix {
  int64_t length = 0;
  std::string key;  // names the rows' inputs (their ids); empty: not worth keeping
};

/// A prefix after the frozen blocks [0, kv.size()).
struct PrefixState {
  std::vector<AttentionPrefix> kv;  // one per block
  at::Tensor x_PD;                  // the input of the block after them
  int64_t bytes() const;
};

/// States by key, bounded in bytes: what was not used for the longest time goes. Not thread safe.
class PrefixCache {
 public:
  explicit PrefixCache(int64_t max_bytes) : max_bytes_(max_bytes) {}
  /// States are those of `blocks` frozen blocks from now on; all others are dropped. 0: something
  /// below every block trains.
  void set_blocks(int64_t blocks);
  std::shared_ptr<const PrefixState> find(const std::string& key);  // null: not here
  void insert(const std::string& key, std::shared_ptr<const PrefixState> state);
  int64_t bytes() const { return bytes_; }
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<const PrefixState> state;
  };
  int64_t max_bytes_, bytes_ = 0, blocks_ = 0;
  std::list<Entry> entries_;  // the latest first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_key_;
};

}  // namespace euromodal
