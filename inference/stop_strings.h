// stop_strings.h — texts that end an answer wherever they come up, also across tokens.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backbone/weights/tokenizer.h"

namespace euromodal {

class StopStrings {
 public:
  /// UsageError: one of them is empty.
  StopStrings(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> texts);
  bool empty() const { return texts_.empty(); }
  /// Is one of them in the text of these tokens? Asked behind every token, so only the last are
  /// read.
  bool ends(std::span<const int64_t> tokens) const;
  /// Where the first of them begins in `text`; npos: nowhere.
  size_t find(std::string_view text) const;
  /// How many bytes at the end of `text` may be the beginning of one (to be held back in a stream).
  size_t held(std::string_view text) const;

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<std::string> texts_;
  size_t longest_ = 0;
};

}  // namespace euromodal
