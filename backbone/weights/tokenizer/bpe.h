// bpe.h — byte-pair encoding with byte fallback (Sennrich et al. 2016), as the `model` part of
// tokenizer.json describes it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace euromodal {

struct BpeOptions {
  std::optional<std::string> unk_token;
  std::string subword_prefix, word_suffix;  // continuing_subword_prefix, end_of_word_suffix
  bool fuse_unk = false, byte_fallback = false, ignore_merges = false;
};

struct BpeHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using BpeVocab = std::unordered_map<std::string, int64_t, BpeHash, std::equal_to<>>;
using BpeMerges = std::vector<std::pair<std::string, std::string>>;  // best first

class Bpe {
 public:
  /// CheckpointError naming `what` (the file) on any fault.
  Bpe(BpeVocab vocab, const BpeMerges& merges, BpeOptions options, const std::string& what);
  static Bpe from_json(const nlohmann::json& model, const std::string& what);

  /// Appends the ids of one word (valid UTF-8). n log n in its length: -> how many possible merges
  /// were looked at, at most three for each symbol.
  int64_t encode(std::string_view word, std::vector<int64_t>& ids) const;
  std::optional<int64_t> id_of(std::string_view token) const;
  const BpeVocab& vocab() const { return vocab_; }

 private:
  struct Merge {
    int64_t rank, id;
  };
  struct Symbol {
    int64_t id;
    int64_t before, behind;  // -1: none
    bool alive;
  };
  const Merge* merge_of(int64_t left, int64_t right) const;
  std::vector<Symbol> symbols_of(std::string_view word) const;

  BpeVocab vocab_;
  BpeOptions options_;
  std::unordered_map<uint64_t, Merge> merges_;
  std::optional<int64_t> unk_id_;
  std::vector<int64_t> byte_ids_;  // [256], -1: no such token
};

}  // namespace euromodal
