// text_growth.h — how much longer the steps of a tokenizer.json may make a text. A chain of a few
// replacements can multiply without bound, and files come from strangers.
//
// What honest files do to UTF-8: NFKC and NFKD at most 11 times (U+FDFA), a character of one byte
// by "▁" or as a byte-level character at most 3 times, lower case at most 1.5 times: all of them
// together stay below 64. The constant is for what is put in front of short texts.
#pragma once
#include <cstddef>

#include "core/error.h"

namespace euromodal {

class TextGrowth {
 public:
  /// Of a whole text of `bytes`, though it may come in parts.
  explicit TextGrowth(size_t bytes) : bytes_(bytes), most_(64 * bytes + (size_t{1} << 20)) {}

  /// A part has `bytes` now. CheckpointError when that and all finished parts are too many.
  void check_size(size_t bytes) const {
    check<CheckpointError>(
        bytes <= most_ && done_ <= most_ - bytes,
        "tokenizer: its steps make more than {} bytes of a text of {} bytes; a "
        "normalizer, pre_tokenizer or decoder of tokenizer.json replaces without "
        "bound",
        most_, bytes_);
  }
  void finish(size_t bytes) {
    check_size(bytes);
    done_ += bytes;
  }

 private:
  size_t bytes_, most_, done_ = 0;
};

}  // namespace euromodal
