// kept_sequences.h — caches of sequences that have been through a model: a prompt that begins as
// one of them did is prefilled only behind their common beginning. Pages are shared
// (backbone/kv_cache.h), on the CPU and in a device decoder, so that keeping and taking copy
// nothing.
#pragma once
#include <array>
#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <vector>

#include "backbone/kv_cache.h"
#include "multimodal/token_plan.h"

namespace euromodal {

struct KeptLimits {
  int64_t bytes = int64_t{1} << 30;  // of pages; one that several sequences share counts once
  int64_t count = 64;                // sequences
  int64_t least = 16;                // positions: less is not worth the copy of a page
};

/// Of one model and one form of its cache in pages. Keys say what stands in a row: equal keys,
/// equal rows; of text they are the token ids. Least recently used sequences go first.
class KeptSequences {
 public:
  KeptSequences(const KvLayout& layout, const KeptLimits& limits = {});

  /// Positions that a kept sequence has in common with the beginning of `keys`, the most there are;
  /// 0 where they are fewer than limits().least.
  int64_t common(std::span<const int64_t> keys) const;
  /// A cache that holds these positions; nothing where common() is 0.
  std::optional<KvCache> take(std::span<const int64_t> keys);
  /// Keeps the first keys.size() positions of a cache, which has at least as many (Error), as far
  /// as the limit of bytes goes. Sequences that this one goes on from are forgotten.
  void keep(std::vector<int64_t> keys, KvCache cache);

  /// Gives up the sequence that was used least recently, for its pages; false: there is none.
  bool forget_oldest();

  const KeptLimits& limits() const { return limits_; }
  int64_t count() const { return static_cast<int64_t>(kept_.size()); }
  int64_t bytes() const;

 private:
  struct Kept {
    std::vector<int64_t> keys;
    KvCache cache;
  };
  std::list<Kept>::const_iterator best(std::span<const int64_t> keys, int64_t* common) const;

  KvLayout layout_;
  KeptLimits limits_;
  std::list<Kept> kept_;  // the one used last comes first
};

/// How many keys two sequences have in common at their beginning.
int64_t common_beginning(std::span<const int64_t> a, std::span<const int64_t> b);

/// Keys of a prompt's rows. `media`: a number from 0 for each medium, by kind and item, the same
/// for the same medium alone; keys end before the first medium that has none.
std::vector<int64_t> prompt_keys(const TokenPlan& plan,
                                 const std::array<std::vector<int64_t>, 3>& media = {});

}  // namespace euromodal
