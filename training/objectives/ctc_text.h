// ctc_text.h — texts as symbols of an alphabet, greedy CTC decoding and edit distance: plain
// functions without tensors. Symbol 0 is the blank, symbol i + 1 the alphabet's i-th character.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace euromodal {

/// Characters (code points) of valid UTF-8.
std::vector<std::string> utf8_characters(std::string_view text);

class CtcAlphabet {
 public:
  /// One character each; ConfigError naming an entry that is not one character. `what` for
  /// messages.
  CtcAlphabet(std::vector<std::string> characters, std::string what);
  int64_t symbols() const { return static_cast<int64_t>(characters_.size()) + 1; }
  const std::vector<std::string>& characters() const { return characters_; }
  /// DataError naming the character that the alphabet lacks.
  std::vector<int64_t> encode(std::string_view text) const;

 private:
  std::vector<std::string> characters_;
  std::unordered_map<std::string, int64_t> symbol_of_;
  std::string what_;
};

/// Rows that CTC needs at least: one a symbol, and a blank between equal neighbours.
int64_t ctc_rows_needed(const std::vector<int64_t>& target);
/// Best symbol of each row -> symbols: repeats merged, blanks dropped.
std::vector<int64_t> ctc_collapse(const int64_t* best, int64_t rows);
/// Levenshtein distance.
int64_t edit_distance(const std::vector<int64_t>& a, const std::vector<int64_t>& b);

}  // namespace euromodal
