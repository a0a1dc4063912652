// pre_tokenizer.cpp — see pre_tokenizer.h.
#include "backbone/weights/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "backbone/weights/safetensors_header.h"
#include "backbone/weights/tokenizer/pattern.h"
#include "backbone/weights/tokenizer/unicode.h"
#include "core/error.h"

namespace euromodal {
namespace {

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior parse_behavior(const std::string& word, const std::string& what) {
  if (word == "Removed") return Behavior::kRemoved;
  if (word == "Isolated") return Behavior::kIsolated;
  if (word == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (word == "MergedWithNext") return Behavior::kMergedWithNext;
  if (word == "Contiguous") return Behavior::kContiguous;
  throw CheckpointError("{}: split behavior {} is not supported", what, shown_name(word));
}

std::vector<Stretch> join_stretches(std::vector<Stretch> all, Behavior behavior) {
  std::vector<Stretch> out;
  bool before = false;
  switch (behavior) {
    case Behavior::kIsolated:
      return all;
    case Behavior::kRemoved:
      std::copy_if(all.begin(), all.end(), std::back_inserter(out),
                   [](const Stretch& s) { return !s.match; });
      return out;
    case Behavior::kContiguous:
      for (const Stretch& s : all) {
        if (!out.empty() && out.back().match == s.match)
          out.back().end = s.end;
        else
          out.push_back(s);
      }
      return out;
    case Behavior::kMergedWithPrevious:
      for (const Stretch& s : all) {
        if (s.match && !before && !out.empty())
          out.back().end = s.end;
        else
          out.push_back(s);
        before = s.match;
      }
      return out;
    case Behavior::kMergedWithNext:
      for (auto s = all.rbegin(); s != all.rend(); ++s) {
        if (s->match && !before && !out.empty())
          out.back().begin = s->begin;
        else
          out.push_back(*s);
        before = s->match;
      }
      std::reverse(out.begin(), out.end());
      return out;
  }
  return out;
}

std::vector<Word> cut_word(const Word& word, const std::vector<Stretch>& stretches) {
  std::vector<Word> out;
  for (const Stretch& s : stretches)
    out.push_back({word.text.substr(s.begin, s.end - s.begin), word.at_start && s.begin == 0});
  return out;
}

// Runs of digits (or single ones) and what lies between.
std::vector<Stretch> digit_stretches(std::string_view text) {
  std::vector<Stretch> out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const bool digit = unicode_number(utf8_next(text, at));
    if (!digit && !out.empty() && !out.back().match)
      out.back().end = at;
    else
      out.push_back({begin, at, digit});
  }
  return out;
}

struct ByteLevelTable {
  std::array<std::string, 256> characters;
  std::unordered_map<int32_t, int> bytes;
  ByteLevelTable() {
    int32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) ||
                             (byte >= 174 && byte <= 255);
      const int32_t c = printable ? byte : next++;
      utf8_append(characters[byte], c);
      bytes[c] = byte;
    }
  }
};

const ByteLevelTable& byte_level_table() {
  static const ByteLevelTable table;
  return table;
}

constexpr const char* kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

const std::string& byte_level_character(unsigned char byte) {
  return byte_level_table().characters[byte];
}

int byte_level_byte(int32_t character) {
  const auto found = byte_level_table().bytes.find(character);
  return found == byte_level_table().bytes.end() ? -1 : found->second;
}

PreTokenizer PreTokenizer::from_json(const nlohmann::json& json, const std::string& what) {
  PreTokenizer out;
  out.add(json, what, 0);
  return out;
}

void PreTokenizer::add(const nlohmann::json& json, const std::string& what, int depth) {
  check<CheckpointError>(depth < 16, "{}: pre_tokenizers are nested too deep", what);
  if (json.is_null()) return;
  const auto type = json.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const auto& step : json.at("pretokenizers")) add(step, what, depth + 1);
  } else if (type == "Metaspace") {
    const auto mark = json.value("replacement", std::string("▁"));
    check<CheckpointError>(!mark.empty(), "{}: Metaspace replacement is empty", what);
    const bool add_prefix = json.value("add_prefix_space", true);
    const auto scheme = json.value("prepend_scheme", std::string(add_prefix ? "always" : "never"));
    check<CheckpointError>(scheme == "always" || scheme == "first" || scheme == "never",
                           "{}: Metaspace prepend_scheme {} is not supported", what,
                           shown_name(scheme));
    // Of tokenizer.model alone (not a key of the format): a text that starts with a space gets one
    // more, as SentencePiece does it.
    const bool again = json.value("prepend_again", false);
    steps_.push_back(
        [mark, scheme, again, split = json.value("split", true), space = Pattern::literal(" "),
         pattern = Pattern::literal(mark)](Word word, bool prefix, const TextGrowth& growth) {
          word.text = space.replace(word.text, mark, growth);
          if ((prefix || !word.at_start) && (again || !word.text.starts_with(mark)) &&
              (scheme == "always" || (scheme == "first" && word.at_start)))
            word.text = mark + word.text;
          if (!split) return std::vector<Word>{word};
          return cut_word(word,
                          join_stretches(pattern.stretches(word.text), Behavior::kMergedWithNext));
        });
  } else if (type == "ByteLevel") {
    byte_level_ = true;
    const bool space = json.value("add_prefix_space", true), words = json.value("use_regex", true);
    steps_.push_back([space, words, pattern = Pattern::regex(kGpt2Words, what)](
                         Word word, bool prefix, const TextGrowth&) {
      if (space && (prefix || !word.at_start) && !word.text.starts_with(' '))
        word.text = " " + word.text;
      std::vector<Word> out =
          words ? cut_word(word, pattern.stretches(word.text)) : std::vector<Word>{word};
      for (Word& piece : out) {
        std::string text;
        for (const char c : piece.text) text += byte_level_character(static_cast<unsigned char>(c));
        piece.text = std::move(text);
      }
      return out;
    });
  } else if (type == "Split") {
    const Behavior behavior = parse_behavior(json.at("behavior").get<std::string>(), what);
    steps_.push_back([behavior, invert = json.value("invert", false),
                      pattern = Pattern::from_json(json.at("pattern"), what)](
                         const Word& word, bool, const TextGrowth&) {
      std::vector<Stretch> all = pattern.stretches(word.text);
      for (Stretch& s : all) s.match = s.match != invert;
      return cut_word(word, join_stretches(std::move(all), behavior));
    });
  } else if (type == "Digits") {
    const Behavior behavior =
        json.value("individual_digits", false) ? Behavior::kIsolated : Behavior::kContiguous;
    steps_.push_back([behavior](const Word& word, bool, const TextGrowth&) {
      return cut_word(word, join_stretches(digit_stretches(word.text), behavior));
    });
  } else {
    throw CheckpointError("{}: pre_tokenizer {} is not supported", what, shown_name(type));
  }
}

std::vector<Word> PreTokenizer::apply(Word text, bool prefix, TextGrowth& growth) const {
  size_t bytes = text.text.size();
  std::vector<Word> words = {std::move(text)};
  for (const Step& step : steps_) {
    std::vector<Word> next;
    bytes = 0;
    for (Word& word : words) {
      if (word.text.empty()) continue;
      for (Word& piece : step(std::move(word), prefix, growth)) {
        bytes += piece.text.size();
        next.push_back(std::move(piece));
      }
      growth.check_size(bytes);
    }
    words = std::move(next);
  }
  growth.finish(bytes);
  return words;
}

}  // namespace euromodal
