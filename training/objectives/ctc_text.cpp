// ctc_text.cpp — see ctc_text.h.
#include "training/objectives/ctc_text.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/files.h"

namespace euromodal {

std::vector<std::string> utf8_characters(std::string_view text) {
  std::vector<std::string> out;
  for (const char byte : text) {
    const bool continues = (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U;
    if (continues && !out.empty()) {
      out.back().push_back(byte);
    } else {
      out.emplace_back(1, byte);
    }
  }
  return out;
}

CtcAlphabet::CtcAlphabet(std::vector<std::string> characters, std::string what)
    : characters_(std::move(characters)), what_(std::move(what)) {
  for (size_t i = 0; i < characters_.size(); ++i) {
    const std::string& character = characters_[i];
    check<ConfigError>(find_invalid_utf8(character) == std::string_view::npos &&
                           utf8_characters(character).size() == 1,
                       "{}:{}: expected one character, got \"{}\"", what_, i + 1, character);
    check<ConfigError>(symbol_of_.emplace(character, static_cast<int64_t>(i) + 1).second,
                       "{}:{}: \"{}\" stands there twice", what_, i + 1, character);
  }
}

std::vector<int64_t> CtcAlphabet::encode(std::string_view text) const {
  std::vector<int64_t> out;
  for (const std::string& character : utf8_characters(text)) {
    const auto found = symbol_of_.find(character);
    check<DataError>(found != symbol_of_.end(), "the alphabet {} lacks \"{}\" of the text \"{}\"",
                     what_, character, text);
    out.push_back(found->second);
  }
  return out;
}

int64_t ctc_rows_needed(const std::vector<int64_t>& target) {
  auto rows = static_cast<int64_t>(target.size());
  for (size_t i = 1; i < target.size(); ++i) rows += target[i] == target[i - 1] ? 1 : 0;
  return rows;
}

std::vector<int64_t> ctc_collapse(const int64_t* best, int64_t rows) {
  std::vector<int64_t> out;
  int64_t last = 0;
  for (int64_t r = 0; r < rows; ++r) {
    if (best[r] != 0 && best[r] != last) out.push_back(best[r]);
    last = best[r];
  }
  return out;
}

int64_t edit_distance(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  std::vector<int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), int64_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t up = row[j];
      row[j] = std::min({up + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = up;
    }
  }
  return row.back();
}

}  // namespace euromodal
