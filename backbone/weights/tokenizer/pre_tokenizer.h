// pre_tokenizer.h — the `pre_tokenizer` part of tokenizer.json: cuts the text into words, within
// which alone tokens are merged.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "backbone/weights/tokenizer/text_growth.h"

namespace euromodal {

struct Word {
  std::string text;
  bool at_start = false;  // begins where the whole text begins
};

class PreTokenizer {
 public:
  static PreTokenizer from_json(const nlohmann::json& json, const std::string& what);
  /// Without `prefix` no space is put before the first word. CheckpointError when all words
  /// together grow beyond `growth`.
  std::vector<Word> apply(Word text, bool prefix, TextGrowth& growth) const;
  bool byte_level() const { return byte_level_; }

 private:
  using Step = std::function<std::vector<Word>(Word word, bool prefix, const TextGrowth& growth)>;
  void add(const nlohmann::json& json, const std::string& what, int depth);
  std::vector<Step> steps_;
  bool byte_level_ = false;
};

/// GPT-2's printable stand-in for each byte, and back (-1: no stand-in).
const std::string& byte_level_character(unsigned char byte);
int byte_level_byte(int32_t character);

}  // namespace euromodal
