// decoder.cpp — see decoder.h.
#include "backbone/weights/tokenizer/decoder.h"

#include <nlohmann/json.hpp>

#include "backbone/weights/safetensors_header.h"
#include "backbone/weights/tokenizer/json_number.h"
#include "backbone/weights/tokenizer/pattern.h"
#include "backbone/weights/tokenizer/pre_tokenizer.h"
#include "backbone/weights/tokenizer/unicode.h"
#include "core/error.h"
#include "core/files.h"

namespace euromodal {
namespace {

constexpr const char* kReplacementCharacter = "\xEF\xBF\xBD";

// A run of byte tokens is text when all of it is valid, else one U+FFFD for each byte.
void decode_bytes(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string run;
  const auto flush = [&] {
    if (run.empty()) return;
    if (find_invalid_utf8(run) == std::string::npos) {
      out.push_back(run);
    } else {
      for (size_t i = 0; i < run.size(); ++i) out.emplace_back(kReplacementCharacter);
    }
    run.clear();
  };
  for (std::string& token : tokens) {
    const int byte = byte_fallback_value(token);
    if (byte >= 0) {
      run += static_cast<char>(byte);
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  tokens = std::move(out);
}

void decode_fuse(std::vector<std::string>& tokens) {
  std::string all;
  for (const std::string& token : tokens) all += token;
  tokens = {all};
}

// Up to `start` times `content` at the front and `stop` times at the end of each token.
void decode_strip(std::vector<std::string>& tokens, const std::string& content, int64_t start,
                  int64_t stop) {
  for (std::string& token : tokens) {
    std::string_view rest = token;
    for (int64_t i = 0; i < start && rest.starts_with(content); ++i)
      rest.remove_prefix(content.size());
    for (int64_t i = 0; i < stop && rest.ends_with(content); ++i)
      rest.remove_suffix(content.size());
    token = std::string(rest);
  }
}

std::string byte_level_bytes(const std::string& token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const int byte = byte_level_byte(utf8_next(token, at));
    if (byte < 0) return token;  // added tokens may hold characters that stand for no byte
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

void decode_byte_level(std::vector<std::string>& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) bytes += byte_level_bytes(token);
  tokens = {utf8_lossy(bytes)};
}

}  // namespace

int byte_fallback_value(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

Decoder Decoder::from_json(const nlohmann::json& json, const std::string& what) {
  Decoder out;
  out.joined_ = !json.is_null();
  out.add(json, what, 0);
  return out;
}

void Decoder::add(const nlohmann::json& json, const std::string& what, int depth) {
  check<CheckpointError>(depth < 16, "{}: decoders are nested too deep", what);
  if (json.is_null()) return;
  const auto type = json.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const auto& step : json.at("decoders")) add(step, what, depth + 1);
  } else if (type == "Replace") {
    steps_.push_back(
        [pattern = Pattern::from_json(json.at("pattern"), what),
         content = json.at("content").get<std::string>()](auto& tokens, const TextGrowth& growth) {
          TextGrowth all = growth;
          for (std::string& token : tokens) {
            token = pattern.replace(token, content, all);
            all.finish(token.size());
          }
        });
  } else if (type == "ByteFallback") {
    byte_fallback_ = true;
    steps_.push_back([](auto& tokens, const TextGrowth&) { decode_bytes(tokens); });
  } else if (type == "Fuse") {
    steps_.push_back([](auto& tokens, const TextGrowth&) { decode_fuse(tokens); });
  } else if (type == "Strip") {
    const auto content = json.at("content").get<std::string>();
    check<CheckpointError>(!content.empty(), "{}: decoder Strip: content is empty", what);
    steps_.push_back([content, start = json_number(json.at("start"), what),
                      stop = json_number(json.at("stop"), what)](auto& tokens, const TextGrowth&) {
      decode_strip(tokens, content, start, stop);
    });
  } else if (type == "Metaspace") {
    const auto mark = json.value("replacement", std::string("▁"));
    check<CheckpointError>(!mark.empty(), "{}: Metaspace replacement is empty", what);
    const bool add_prefix = json.value("add_prefix_space", true);
    const auto scheme = json.value("prepend_scheme", std::string(add_prefix ? "always" : "never"));
    steps_.push_back([mark, first = scheme == "never" ? " " : ""](auto& tokens, const TextGrowth&) {
      for (size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = replace_all(tokens[i], mark, i == 0 ? first : " ");
    });
  } else if (type == "ByteLevel") {
    byte_level_ = true;
    steps_.push_back([](auto& tokens, const TextGrowth&) { decode_byte_level(tokens); });
  } else {
    throw CheckpointError("{}: decoder {} is not supported", what, shown_name(type));
  }
}

std::string Decoder::bytes_of(const std::string& token) const {
  if (byte_level_) return byte_level_bytes(token);
  const int byte = byte_fallback_ ? byte_fallback_value(token) : -1;
  if (byte >= 0) return std::string(1, static_cast<char>(byte));
  // Behind a letter, so that what decoders do at the beginning does not touch it.
  const std::string before = apply({"x"}), both = apply({"x", token});
  return both.starts_with(before) ? both.substr(before.size()) : token;
}

std::string Decoder::apply(std::vector<std::string> tokens) const {
  size_t bytes = 0;
  for (const std::string& token : tokens) bytes += token.size();
  const TextGrowth growth(bytes);
  for (const Step& step : steps_) step(tokens, growth);
  std::string out;
  for (size_t i = 0; i < tokens.size(); ++i) out += (i > 0 && !joined_ ? " " : "") + tokens[i];
  return out;
}

}  // namespace euromodal
