// stop_strings.cpp — see stop_strings.h.
#include "inference/stop_strings.h"

#include <algorithm>

#include "core/error.h"

namespace euromodal {

StopStrings::StopStrings(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> texts)
    : tokenizer_(std::move(tokenizer)), texts_(std::move(texts)) {
  for (const std::string& text : texts_) {
    check<UsageError>(!text.empty(), "a stop string is empty");
    longest_ = std::max(longest_, text.size());
  }
}

bool StopStrings::ends(std::span<const int64_t> tokens) const {
  if (texts_.empty()) return false;
  // Backwards until the text behind the last token's is as long as the longest stop string and one
  // character that decoding may have cut at the front.
  std::vector<int64_t> tail;
  size_t bytes = 0;
  for (size_t i = tokens.size(); i-- > 0 && (tail.empty() || bytes < longest_ + 4);) {
    if (tokens[i] >= tokenizer_->size()) continue;
    if (!tail.empty()) bytes += tokenizer_->bytes_of(tokens[i]).size();
    tail.insert(tail.begin(), tokens[i]);
  }
  return find(tokenizer_->decode(tail, /*skip_special=*/true)) != std::string_view::npos;
}

size_t StopStrings::find(std::string_view text) const {
  size_t first = std::string_view::npos;
  for (const std::string& stop : texts_) first = std::min(first, text.find(stop));
  return first;
}

size_t StopStrings::held(std::string_view text) const {
  size_t most = 0;
  for (const std::string& stop : texts_) {
    for (size_t n = std::min(text.size(), stop.size() - 1); n > most; --n)
      if (text.ends_with(std::string_view(stop).substr(0, n))) most = n;
  }
  return most;
}

}  // namespace euromodal
