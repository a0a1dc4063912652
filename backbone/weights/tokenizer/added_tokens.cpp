// added_tokens.cpp — leftmost, longest first; flags as the tokenizers library applies them.
#include "backbone/weights/tokenizer/added_tokens.h"

#include <algorithm>

#include "backbone/weights/tokenizer/unicode.h"

namespace euromodal {
namespace {

// Where the character before `at` starts.
size_t added_step_back(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool added_word_before(std::string_view text, size_t at) {
  if (at == 0) return false;
  size_t start = added_step_back(text, at);
  return unicode_word(utf8_next(text, start));
}

bool added_word_at(std::string_view text, size_t at) {
  return at < text.size() && unicode_word(utf8_next(text, at));
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, std::vector<std::string> words)
    : tokens_(std::move(tokens)), words_(std::move(words)) {
  for (size_t i = 0; i < words_.size(); ++i) {
    if (!words_[i].empty()) by_first_[static_cast<unsigned char>(words_[i][0])].push_back(i);
  }
  for (auto& list : by_first_)
    std::stable_sort(list.begin(), list.end(),
                     [this](size_t a, size_t b) { return words_[a].size() > words_[b].size(); });
}

std::vector<Section> AddedTokens::split(std::string_view text) const {
  std::vector<Section> out;
  size_t from = 0;
  for (size_t at = 0; at < text.size();) {
    const auto& candidates = by_first_[static_cast<unsigned char>(text[at])];
    const auto hit = std::find_if(candidates.begin(), candidates.end(),
                                  [&](size_t i) { return text.substr(at).starts_with(words_[i]); });
    if (hit == candidates.end()) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[*hit];
    size_t begin = at, end = at + words_[*hit].size();
    at = end;
    if (token.single_word && (added_word_before(text, begin) || added_word_at(text, end))) continue;
    if (token.lstrip) {
      while (begin > from) {
        const size_t start = added_step_back(text, begin);
        size_t next = start;
        if (!unicode_space(utf8_next(text, next))) break;
        begin = start;
      }
      begin = std::max(begin, from);
    }
    if (token.rstrip) {
      for (size_t next = end; next < text.size(); end = next) {
        if (!unicode_space(utf8_next(text, next))) break;
      }
      at = std::max(at, end);
    }
    if (from < begin) out.push_back({from, begin, -1});
    out.push_back({begin, end, token.id});
    from = end;
  }
  if (from < text.size()) out.push_back({from, text.size(), -1});
  return out;
}

}  // namespace euromodal
