// hf_tokenizer.cpp — see hf_tokenizer.h.
#include "backbone/weights/tokenizer/hf_tokenizer.h"

#include <algorithm>

#include "backbone/weights/safetensors_header.h"
#include "core/error.h"
#include "core/files.h"

namespace euromodal {

HfTokenizer::HfTokenizer(HfTokenizerParts parts, const std::string& what)
    : parts_(std::move(parts)) {
  for (const auto& [token, id] : parts_.model.vocab()) tokens_[id] = token;
  std::vector<AddedToken> raw, normalized;
  std::vector<std::string> raw_words, normalized_words;
  size_t added_bytes = 0;
  for (const AddedToken& token : parts_.added) added_bytes += token.content.size();
  TextGrowth growth(added_bytes);
  for (const AddedToken& token : parts_.added) {
    check<CheckpointError>(!token.content.empty(), "{}: added token {} is empty", what, token.id);
    tokens_[token.id] = token.content;
    if (token.special) special_.insert(token.id);
    (token.normalized ? normalized : raw).push_back(token);
    if (token.normalized) {
      normalized_words.push_back(parts_.normalizer.apply(token.content, /*prefix=*/true, growth));
      normalized_tokens_[token.id] = normalized_words.back();
    } else {
      raw_words.push_back(token.content);
    }
  }
  raw_ = std::make_unique<AddedTokens>(std::move(raw), std::move(raw_words));
  normalized_ = std::make_unique<AddedTokens>(std::move(normalized), std::move(normalized_words));
  for (const auto& [id, token] : tokens_) size_ = std::max(size_, id + 1);
}

void HfTokenizer::encode_section(std::string_view text, bool at_start, bool prefix, Growth& growth,
                                 std::vector<int64_t>& ids) const {
  // Only the very start of a continuation goes without its prefix.
  const std::string normal = parts_.normalizer.apply(text, prefix || !at_start, growth.normal);
  for (const Section& section : normalized_->split(normal)) {
    if (section.id >= 0) {
      ids.push_back(section.id);
      continue;
    }
    Word word{normal.substr(section.begin, section.end - section.begin),
              at_start && section.begin == 0};
    for (const Word& piece : parts_.pre_tokenizer.apply(std::move(word), prefix, growth.words))
      parts_.model.encode(piece.text, ids);
  }
}

std::vector<int64_t> HfTokenizer::encode(std::string_view text, EncodeMode mode) const {
  const size_t invalid = find_invalid_utf8(text);
  check<DataError>(invalid == std::string_view::npos, "text: invalid UTF-8 at byte {} (0x{:02X})",
                   invalid, invalid < text.size() ? static_cast<unsigned char>(text[invalid]) : 0);
  std::vector<int64_t> ids;
  Growth growth{TextGrowth(text.size()), TextGrowth(text.size())};
  if (mode == EncodeMode::kFull) ids = parts_.before;
  for (const Section& section : raw_->split(text)) {
    if (section.id >= 0)
      ids.push_back(section.id);
    else
      encode_section(text.substr(section.begin, section.end - section.begin), section.begin == 0,
                     mode != EncodeMode::kContinuation, growth, ids);
  }
  if (mode == EncodeMode::kFull) ids.insert(ids.end(), parts_.behind.begin(), parts_.behind.end());
  return ids;
}

std::string HfTokenizer::decode(const std::vector<int64_t>& ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int64_t id : ids) {
    if (skip_special && is_special(id)) continue;
    tokens.push_back(written_token(id));
  }
  return parts_.decoder.apply(std::move(tokens));
}

std::optional<int64_t> HfTokenizer::id_of(std::string_view token) const {
  for (const AddedToken& added : parts_.added) {
    if (added.content == token) return added.id;
  }
  return parts_.model.id_of(token);
}

std::string HfTokenizer::token_of(int64_t id) const {
  const auto found = tokens_.find(id);
  check<DataError>(found != tokens_.end(), "token id {} is outside the vocabulary (ids 0 to {})",
                   id, size_ - 1);
  return found->second;
}

std::string HfTokenizer::written_token(int64_t id) const {
  const auto normalized = normalized_tokens_.find(id);
  return normalized != normalized_tokens_.end() ? normalized->second : token_of(id);
}

std::string HfTokenizer::bytes_of(int64_t id) const {
  const auto found = tokens_.find(id);
  if (found == tokens_.end() || is_special(id)) return "";
  return parts_.decoder.bytes_of(written_token(id));
}

bool HfTokenizer::is_special(int64_t id) const { return special_.count(id) != 0; }

std::optional<int64_t> HfTokenizer::bos_id() const {
  if (parts_.before.empty()) return std::nullopt;
  return parts_.before.front();
}

}  // namespace euromodal
