// added_tokens.h — tokens that stand beside the model's vocabulary and are cut out of the text
// before anything else happens to it.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace euromodal {

struct AddedToken {
  std::string content;
  int64_t id = 0;
  bool lstrip = false, rstrip = false;  // takes the white space before, behind it as well
  bool single_word = false;             // only where no word character touches it
  bool normalized = false;              // looked for in the normalised text
  bool special = false;
};

/// A part of the text: an added token, or (id < 0) text between.
struct Section {
  size_t begin = 0, end = 0;
  int64_t id = -1;
};

class AddedTokens {
 public:
  /// Looks for `words[i]` and reports tokens[i].
  AddedTokens(std::vector<AddedToken> tokens, std::vector<std::string> words);
  std::vector<Section> split(std::string_view text) const;
  bool empty() const { return tokens_.empty(); }

 private:
  std::vector<AddedToken> tokens_;
  std::vector<std::string> words_;
  std::array<std::vector<size_t>, 256> by_first_;  // longest first
};

}  // namespace euromodal
