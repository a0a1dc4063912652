// kept_sequences.cpp — see kept_sequences.h.
#include "inference/kept_sequences.h"

#include <algorithm>
#include <map>
#include <unordered_set>
#include <utility>

#include "core/error.h"

namespace euromodal {

KeptSequences::KeptSequences(const KvLayout& layout, const KeptLimits& limits)
    : layout_(layout), limits_(limits) {
  check(limits.bytes >= 0 && limits.count >= 0 && limits.least >= 1,
        "KeptSequences: {} bytes, {} sequences, {} positions at least: expected 0 or more of the "
        "former and 1 or more of the last",
        limits.bytes, limits.count, limits.least);
}

std::list<KeptSequences::Kept>::const_iterator KeptSequences::best(std::span<const int64_t> keys,
                                                                   int64_t* common) const {
  auto out = kept_.end();
  *common = 0;
  for (auto at = kept_.begin(); at != kept_.end(); ++at) {
    const int64_t here = common_beginning(at->keys, keys);
    if (here < limits_.least || here <= *common) continue;
    *common = here;
    out = at;
  }
  return out;
}

int64_t KeptSequences::common(std::span<const int64_t> keys) const {
  int64_t out = 0;
  (void)best(keys, &out);
  return out;
}

std::optional<KvCache> KeptSequences::take(std::span<const int64_t> keys) {
  int64_t length = 0;
  const auto found = best(keys, &length);
  if (found == kept_.end()) return std::nullopt;
  kept_.splice(kept_.begin(), kept_, found);
  KvCache out = kept_.front().cache.clone();
  out.truncate(length);
  return out;
}

void KeptSequences::keep(std::vector<int64_t> keys, KvCache cache) {
  auto length = static_cast<int64_t>(keys.size());
  check(cache.paged() && cache.layout() == layout_,
        "KeptSequences: a cache of another form than the others");
  check(length <= cache.length(), "KeptSequences: {} keys for {} positions", length,
        cache.length());
  length = std::min(length, limits_.bytes / layout_.page_bytes() * kPagePositions);
  if (length < limits_.least) return;
  keys.resize(static_cast<size_t>(length));
  cache.truncate(length);
  const auto begins = [](const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
    return common_beginning(a, b) == static_cast<int64_t>(a.size());
  };
  const auto longer = std::find_if(kept_.begin(), kept_.end(),
                                   [&](const Kept& one) { return begins(keys, one.keys); });
  if (longer != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, longer);
    return;
  }
  kept_.remove_if([&](const Kept& one) { return begins(one.keys, keys); });
  kept_.push_front({std::move(keys), std::move(cache)});
  while (!kept_.empty() && (count() > limits_.count || bytes() > limits_.bytes)) kept_.pop_back();
}

bool KeptSequences::forget_oldest() {
  if (kept_.empty()) return false;
  kept_.pop_back();
  return true;
}

int64_t KeptSequences::bytes() const {
  std::unordered_set<const KvPage*> pages;
  for (const Kept& one : kept_)
    for (const auto& page : one.cache.held()) pages.insert(page.get());
  return static_cast<int64_t>(pages.size()) * layout_.page_bytes();
}

int64_t common_beginning(std::span<const int64_t> a, std::span<const int64_t> b) {
  const size_t most = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + static_cast<int64_t>(most), b.begin()).first -
         a.begin();
}

std::vector<int64_t> prompt_keys(const TokenPlan& plan,
                                 const std::array<std::vector<int64_t>, 3>& media) {
  constexpr int64_t kRows = int64_t{1} << 32;  // of one medium, far more than there are
  std::vector<int64_t> out = plan.ids;
  std::map<std::pair<Modality, int64_t>, int64_t> rows;  // of each medium so far
  for (const Span& span : plan.spans) {
    const std::vector<int64_t>& numbers = media[static_cast<size_t>(span.kind)];
    if (span.item >= static_cast<int64_t>(numbers.size())) {
      out.resize(static_cast<size_t>(span.start));
      break;
    }
    const int64_t number = numbers[static_cast<size_t>(span.item)];
    for (int64_t i = 0; i < span.length; ++i)  // negative: never a token's
      out[static_cast<size_t>(span.start + i)] =
          -1 - (number * kRows + rows[{span.kind, span.item}]++);
  }
  return out;
}

}  // namespace euromodal
