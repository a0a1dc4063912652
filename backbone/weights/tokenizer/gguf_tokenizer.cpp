// gguf_tokenizer.cpp — see gguf_tokenizer.h. Both kinds are BPE: "llama" orders its merges by the
// scores of what they make and has no list of them; "gpt2" lists them.
#include "backbone/weights/tokenizer/gguf_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <unordered_set>

#include "backbone/weights/safetensors_header.h"
#include "backbone/weights/tokenizer/hf_tokenizer.h"
#include "backbone/weights/tokenizer/piece_merges.h"
#include "core/error.h"
#include "core/files.h"

namespace euromodal {
namespace {

using nlohmann::json;

constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr int kUnknown = 2, kControl = 3, kUser = 4;  // tokenizer.ggml.token_type

// llama.cpp's regular expressions of these kinds of `pre`; each cuts what the one before left.
constexpr const char* kLlama3Words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDefaultWords[] = {
    R"([\p{P}\$\+<=>\^~\|]+)",
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))", R"(\p{N}+)",
    R"([0-9][0-9][0-9])"};

/// What both kinds of vocabulary share.
struct GgufVocab {
  std::vector<std::string> tokens;
  std::vector<int> types;  // empty: all normal
  std::optional<int64_t> bos, eos, unk;
};

std::optional<int64_t> token_id(const GgufHeader& header, const std::string& key, size_t tokens) {
  if (!header.has(key)) return std::nullopt;
  const int64_t id = header.size(key);
  check<CheckpointError>(id < static_cast<int64_t>(tokens),
                         "{}: key {} is {}, but there are only {} tokens", header.file, key, id,
                         tokens);
  return id;
}

GgufVocab read_vocab(const GgufHeader& header) {
  GgufVocab out;
  const auto& words = header.strings(kTokens);
  check<CheckpointError>(!words.empty(), "{}: key {} is empty", header.file, kTokens);
  std::unordered_set<std::string_view> seen;
  for (size_t id = 0; id < words.size(); ++id) {
    check<CheckpointError>(!words[id].empty() && find_invalid_utf8(words[id]) == std::string::npos,
                           "{}: key {}: token {} is empty or not valid UTF-8", header.file, kTokens,
                           id);
    check<CheckpointError>(seen.insert(words[id]).second,
                           "{}: key {}: token {} ({}) is there twice", header.file, kTokens, id,
                           shown_name(words[id]));
    out.tokens.emplace_back(words[id]);
  }
  const std::string types = "tokenizer.ggml.token_type";
  if (header.has(types)) {
    for (const double type : header.numbers(types)) {
      check<CheckpointError>(type >= 0.0 && type <= 6.0,
                             "{}: key {}: token {} has type {}, expected 0 to 6", header.file,
                             types, out.types.size(), type);
      out.types.push_back(static_cast<int>(type));
    }
    check<CheckpointError>(out.types.size() == words.size(),
                           "{}: key {} has {} entries for {} tokens", header.file, types,
                           out.types.size(), words.size());
  }
  out.bos = token_id(header, "tokenizer.ggml.bos_token_id", words.size());
  out.eos = token_id(header, "tokenizer.ggml.eos_token_id", words.size());
  out.unk = token_id(header, "tokenizer.ggml.unknown_token_id", words.size());
  return out;
}

/// Control and unknown tokens, and those that the keys name: special. User-defined ones: not.
json added_tokens(const GgufVocab& vocab) {
  json out = json::array();
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    const int type = vocab.types.empty() ? 1 : vocab.types[id];
    const auto number = static_cast<int64_t>(id);
    const bool special = type == kControl || type == kUnknown || vocab.bos == number ||
                         vocab.eos == number || vocab.unk == number;
    if (!special && type != kUser) continue;
    out.push_back({{"id", id},
                   {"content", vocab.tokens[id]},
                   {"single_word", false},
                   {"lstrip", false},
                   {"rstrip", false},
                   {"normalized", false},
                   {"special", special}});
  }
  return out;
}

/// Puts one BOS before and one EOS behind the text, where asked for.
json post_processor(const GgufHeader& header, const GgufVocab& vocab, bool bos_is_usual) {
  json single = json::array(), specials = json::object();
  const auto add = [&](const char* flag, bool otherwise, const std::optional<int64_t>& id,
                       const char* key) {
    if (!header.boolean(flag, otherwise)) return;
    check<CheckpointError>(id.has_value(), "{}: key {} is true, but {} is missing", header.file,
                           flag, key);
    const std::string& token = vocab.tokens[static_cast<size_t>(*id)];
    single.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
    specials[token] = {{"id", token}, {"ids", {*id}}, {"tokens", {token}}};
  };
  add("tokenizer.ggml.add_bos_token", bos_is_usual, vocab.bos, "tokenizer.ggml.bos_token_id");
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add("tokenizer.ggml.add_eos_token", false, vocab.eos, "tokenizer.ggml.eos_token_id");
  json pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", specials}};
}

json vocab_json(const GgufVocab& vocab) {
  json out = json::object();
  for (size_t id = 0; id < vocab.tokens.size(); ++id) out[vocab.tokens[id]] = id;
  return out;
}

json model_json(const GgufVocab& vocab, json merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", vocab_json(vocab)},
          {"merges", std::move(merges)}};
}

/// The pieces by score, equal ones by id.
BpeMerges merges_by_score(const GgufHeader& header, const GgufVocab& vocab) {
  const std::string key = "tokenizer.ggml.scores";
  const std::vector<double> scores = header.numbers(key);
  check<CheckpointError>(scores.size() == vocab.tokens.size(),
                         "{}: key {} has {} entries for {} tokens", header.file, key, scores.size(),
                         vocab.tokens.size());
  check<CheckpointError>(
      std::none_of(scores.begin(), scores.end(), [](double s) { return std::isnan(s); }),
      "{}: key {} holds what is no number", header.file, key);
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  std::vector<int64_t> rank(order.size());
  for (size_t i = 0; i < order.size(); ++i) rank[order[i]] = static_cast<int64_t>(i);
  BpeVocab ids;
  for (size_t id = 0; id < vocab.tokens.size(); ++id)
    ids.emplace(vocab.tokens[id], static_cast<int64_t>(id));
  return merges_of_pieces(vocab.tokens, ids, rank);
}

/// transformers' LlamaTokenizer: the prefix space stands at the very start alone.
json sentencepiece_json(const GgufHeader& header, GgufVocab& vocab) {
  const auto usual = [&](std::optional<int64_t>& id, int64_t number) {  // as llama.cpp has it
    if (!id && number < static_cast<int64_t>(vocab.tokens.size())) id = number;
  };
  usual(vocab.unk, 0);
  usual(vocab.bos, 1);
  usual(vocab.eos, 2);
  json merges = json::array();
  for (const auto& [left, right] : merges_by_score(header, vocab))
    merges.push_back(json::array({left, right}));
  const bool prefix = header.boolean("tokenizer.ggml.add_space_prefix", true);
  json model = model_json(vocab, std::move(merges));
  model["byte_fallback"] = model["fuse_unk"] = true;
  if (vocab.unk) model["unk_token"] = vocab.tokens[static_cast<size_t>(*vocab.unk)];
  json steps = {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                {{"type", "ByteFallback"}},
                {{"type", "Fuse"}}};
  if (prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"pre_tokenizer",
           {{"type", "Metaspace"},
            {"replacement", "▁"},
            {"prepend_scheme", prefix ? "first" : "never"},
            {"split", false}}},
          {"post_processor", post_processor(header, vocab, /*bos_is_usual=*/true)},
          {"decoder", {{"type", "Sequence"}, {"decoders", steps}}},
          {"model", std::move(model)}};
}

json byte_level_json(const GgufHeader& header, const GgufVocab& vocab) {
  const std::string pre = header.str("tokenizer.ggml.pre", "default");
  const bool llama = pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3";
  check<CheckpointError>(llama || pre == "gpt-2" || pre == "default",
                         "{}: key tokenizer.ggml.pre is {}, expected llama-bpe, gpt-2 or default; "
                         "take the model's folder with its tokenizer.json",
                         header.file, shown_name(pre));
  json merges = json::array();
  for (const std::string_view merge : header.strings("tokenizer.ggml.merges")) {
    check<CheckpointError>(find_invalid_utf8(merge) == std::string::npos,
                           "{}: key tokenizer.ggml.merges: entry {} is not valid UTF-8",
                           header.file, merges.size());
    merges.push_back(std::string(merge));
  }
  json model = model_json(vocab, std::move(merges));
  model["ignore_merges"] = llama;
  const json bytes = {
      {"type", "ByteLevel"},
      {"add_prefix_space", header.boolean("tokenizer.ggml.add_space_prefix", false)},
      {"trim_offsets", true},
      {"use_regex", pre == "gpt-2"}};
  json steps = json::array();
  const auto split = [&](const char* words) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", words}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  };
  if (llama) split(kLlama3Words);
  if (pre == "default") {
    for (const char* words : kDefaultWords) split(words);
  }
  steps.push_back(bytes);
  return {{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", steps}}},
          {"post_processor", post_processor(header, vocab, /*bos_is_usual=*/llama)},
          {"decoder", bytes},
          {"model", std::move(model)}};
}

}  // namespace

bool gguf_has_tokenizer(const GgufHeader& header) { return header.has(kTokens); }

GgufTokenizerFiles gguf_tokenizer_files(const GgufHeader& header) {
  check<CheckpointError>(gguf_has_tokenizer(header), "{}: holds no tokenizer (key {} is missing)",
                         header.file, kTokens);
  const std::string kind = header.str("tokenizer.ggml.model", "");
  check<CheckpointError>(
      kind == "llama" || kind == "gpt2",
      "{}: key tokenizer.ggml.model is {}, expected llama (SentencePiece BPE) or "
      "gpt2 (byte-level BPE)",
      header.file, shown_name(kind));
  GgufVocab vocab = read_vocab(header);
  GgufTokenizerFiles out;
  out.tokenizer =
      kind == "llama" ? sentencepiece_json(header, vocab) : byte_level_json(header, vocab);
  out.tokenizer["version"] = "1.0";
  out.tokenizer["truncation"] = out.tokenizer["padding"] = out.tokenizer["normalizer"] = nullptr;
  out.tokenizer["added_tokens"] = added_tokens(vocab);
  out.config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                {"clean_up_tokenization_spaces", false}};
  const auto name = [&](const char* key, const std::optional<int64_t>& id) {
    if (id) out.config[key] = vocab.tokens[static_cast<size_t>(*id)];
  };
  name("bos_token", vocab.bos);
  name("eos_token", vocab.eos);
  name("unk_token", vocab.unk);
  const std::string chat = header.str("tokenizer.chat_template", "");
  if (!chat.empty()) out.config["chat_template"] = chat;
  return out;
}

std::shared_ptr<const Tokenizer> gguf_tokenizer(const GgufHeader& header) {
  const GgufTokenizerFiles files = gguf_tokenizer_files(header);
  return make_tokenizer(files.tokenizer, files.config, header.file, header.file);
}

}  // namespace euromodal
