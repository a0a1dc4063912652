// piece_merges.cpp — see piece_merges.h.
#include "backbone/weights/tokenizer/piece_merges.h"

#include <algorithm>
#include <string_view>
#include <tuple>

#include "backbone/weights/tokenizer/unicode.h"

namespace euromodal {

BpeMerges merges_of_pieces(const std::vector<std::string>& pieces, const BpeVocab& vocab,
                           const std::vector<int64_t>& rank) {
  struct Entry {
    int64_t rank;
    size_t left_length, right_length;  // characters
    int64_t left, right;
  };
  std::vector<Entry> entries;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string& piece = pieces[i];
    size_t characters = 0;
    for (size_t at = 0; at < piece.size(); at += utf8_length(piece[at])) ++characters;
    size_t at = 0;
    for (size_t n = 1; n < characters; ++n) {
      at += utf8_length(piece[at]);
      const auto left = vocab.find(std::string_view(piece).substr(0, at));
      const auto right = vocab.find(std::string_view(piece).substr(at));
      if (left != vocab.end() && right != vocab.end())
        entries.push_back({rank[i], n, characters - n, left->second, right->second});
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.rank, a.left_length, a.right_length) <
           std::tie(b.rank, b.left_length, b.right_length);
  });
  BpeMerges merges;
  merges.reserve(entries.size());
  for (const Entry& entry : entries) merges.emplace_back(pieces[entry.left], pieces[entry.right]);
  return merges;
}

}  // namespace euromodal
