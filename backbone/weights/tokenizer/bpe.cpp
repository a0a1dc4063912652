// bpe.cpp — see bpe.h. The word is a linked list of symbols; a heap holds the possible merges, best
// rank first and, among equals, leftmost first. A merge that is no longer possible when it comes up
// is dropped.
#include "backbone/weights/tokenizer/bpe.h"

#include <algorithm>
#include <limits>
#include <queue>

#include <nlohmann/json.hpp>

#include "backbone/weights/safetensors_header.h"
#include "backbone/weights/tokenizer/unicode.h"
#include "core/error.h"

namespace euromodal {
namespace {

constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();

uint64_t bpe_key(int64_t left, int64_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
}

std::string bpe_text(const nlohmann::json& model, const char* key) {
  const auto found = model.find(key);
  return found == model.end() || found->is_null() ? "" : found->get<std::string>();
}

bool bpe_flag(const nlohmann::json& model, const char* key) {
  const auto found = model.find(key);
  return found != model.end() && !found->is_null() && found->get<bool>();
}

}  // namespace

Bpe::Bpe(BpeVocab vocab, const BpeMerges& merges, BpeOptions options, const std::string& what)
    : vocab_(std::move(vocab)), options_(std::move(options)), byte_ids_(256, -1) {
  for (const auto& [token, id] : vocab_)
    check<CheckpointError>(id >= 0 && id <= kMaxId, "{}: token {} has the id {}", what,
                           shown_name(token), id);
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string &left = merges[rank].first, &right = merges[rank].second;
    const auto part = [&](const std::string& token) {
      const auto id = id_of(token);
      check<CheckpointError>(id.has_value(), "{}: merge {} ({} {}): {} is not in the vocabulary",
                             what, rank, shown_name(left), shown_name(right), shown_name(token));
      return *id;
    };
    const bool inner = right.starts_with(options_.subword_prefix);
    const std::string joined =
        left + (inner ? right.substr(options_.subword_prefix.size()) : right);
    const int64_t left_id = part(left), right_id = part(right), id = part(joined);
    merges_[bpe_key(left_id, right_id)] = {static_cast<int64_t>(rank), id};
  }
  if (options_.unk_token) {
    unk_id_ = id_of(*options_.unk_token);
    check<CheckpointError>(unk_id_.has_value(), "{}: unk_token {} is not in the vocabulary", what,
                           shown_name(*options_.unk_token));
  }
  for (int byte = 0; byte < 256; ++byte)
    byte_ids_[byte] = id_of(fmt::format("<0x{:02X}>", byte)).value_or(-1);
}

Bpe Bpe::from_json(const nlohmann::json& model, const std::string& what) {
  const auto kind = bpe_text(model, "type");
  check<CheckpointError>(kind == "BPE" || (kind.empty() && model.contains("merges")),
                         "{}: tokenizer model type {} is not supported (BPE is)", what,
                         shown_name(kind));
  BpeVocab vocab;
  const auto& entries = model.at("vocab");
  check<CheckpointError>(entries.is_object(), "{}: vocab must be an object", what);
  vocab.reserve(entries.size());
  for (const auto& [token, id] : entries.items()) {
    check<CheckpointError>(id.is_number_integer(), "{}: token {}: the id must be a whole number",
                           what, shown_name(token));
    vocab.emplace(token, id.get<int64_t>());
  }
  BpeMerges merges;
  for (const auto& merge : model.at("merges")) {
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      check<CheckpointError>(
          space != std::string::npos && text.find(' ', space + 1) == std::string::npos,
          "{}: merge {} is not two tokens with a space between", what, shown_name(text));
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else {
      check<CheckpointError>(
          merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string(),
          "{}: merge {} is not a pair of tokens", what, shown_name(merge.dump()));
      merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    }
  }
  BpeOptions options;
  if (const auto unk = bpe_text(model, "unk_token"); !unk.empty()) options.unk_token = unk;
  options.subword_prefix = bpe_text(model, "continuing_subword_prefix");
  options.word_suffix = bpe_text(model, "end_of_word_suffix");
  options.fuse_unk = bpe_flag(model, "fuse_unk");
  options.byte_fallback = bpe_flag(model, "byte_fallback");
  options.ignore_merges = bpe_flag(model, "ignore_merges");
  if (const auto dropout = model.find("dropout"); dropout != model.end())
    check<CheckpointError>(dropout->is_null() || *dropout == 0.0,
                           "{}: BPE dropout {} is not supported", what,
                           shown_name(dropout->dump()));
  return Bpe(std::move(vocab), merges, std::move(options), what);
}

std::optional<int64_t> Bpe::id_of(std::string_view token) const {
  const auto found = vocab_.find(token);
  if (found == vocab_.end()) return std::nullopt;
  return found->second;
}

const Bpe::Merge* Bpe::merge_of(int64_t left, int64_t right) const {
  const auto found = merges_.find(bpe_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// Characters; unknown ones as their bytes where those are tokens, else as unk.
std::vector<Bpe::Symbol> Bpe::symbols_of(std::string_view word) const {
  std::vector<Symbol> symbols;
  const auto add = [&](int64_t id) {
    const auto at = static_cast<int64_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1, true});
  };
  bool unknown = false;  // an unk waits to be fused with the next
  for (size_t at = 0; at < word.size();) {
    const std::string_view character = word.substr(at, utf8_length(word[at]));
    const bool first = at == 0;
    at += character.size();
    std::optional<int64_t> id;
    if (options_.subword_prefix.empty() && options_.word_suffix.empty()) {
      id = id_of(character);
    } else {
      std::string token(character);
      if (!first) token = options_.subword_prefix + token;
      if (at >= word.size()) token += options_.word_suffix;
      id = id_of(token);
    }
    if (id) {
      if (unknown) add(*unk_id_);
      unknown = false;
      add(*id);
      continue;
    }
    const auto has_byte = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)] >= 0; };
    if (options_.byte_fallback && std::all_of(character.begin(), character.end(), has_byte)) {
      for (const char c : character) add(byte_ids_[static_cast<unsigned char>(c)]);
      continue;
    }
    if (!unk_id_) continue;
    if (unknown && !options_.fuse_unk) add(*unk_id_);
    unknown = true;
  }
  if (unknown) add(*unk_id_);
  if (!symbols.empty()) symbols.back().behind = -1;
  return symbols;
}

int64_t Bpe::encode(std::string_view word, std::vector<int64_t>& ids) const {
  if (word.empty()) return 0;
  if (options_.ignore_merges) {
    if (const auto whole = id_of(word)) {
      ids.push_back(*whole);
      return 0;
    }
  }
  std::vector<Symbol> symbols = symbols_of(word);
  struct Candidate {
    int64_t rank, at, id;
    bool operator<(const Candidate& other) const {  // the heap's top is the largest
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  std::vector<Candidate> first;
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const Merge* merge = merge_of(symbols[i].id, symbols[i + 1].id))
      first.push_back({merge->rank, static_cast<int64_t>(i), merge->id});
  }
  std::priority_queue<Candidate> heap(std::less<Candidate>(), std::move(first));
  int64_t looked_at = 0;
  while (!heap.empty()) {
    ++looked_at;
    const Candidate best = heap.top();
    heap.pop();
    Symbol& left = symbols[best.at];
    if (!left.alive || left.behind < 0) continue;
    Symbol& right = symbols[left.behind];
    const Merge* merge = merge_of(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) continue;
    left.id = best.id;
    left.behind = right.behind;
    right.alive = false;
    if (left.behind >= 0) {
      symbols[left.behind].before = best.at;
      if (const Merge* next = merge_of(left.id, symbols[left.behind].id))
        heap.push({next->rank, best.at, next->id});
    }
    if (left.before >= 0) {
      if (const Merge* next = merge_of(symbols[left.before].id, left.id))
        heap.push({next->rank, left.before, next->id});
    }
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.alive) ids.push_back(symbol.id);
  }
  return looked_at;
}

}  // namespace euromodal
