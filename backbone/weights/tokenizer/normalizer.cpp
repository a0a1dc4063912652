// normalizer.cpp — see normalizer.h.
#include "backbone/weights/tokenizer/normalizer.h"

#include <nlohmann/json.hpp>

#include "backbone/weights/safetensors_header.h"
#include "backbone/weights/tokenizer/pattern.h"
#include "backbone/weights/tokenizer/unicode.h"
#include "core/error.h"

namespace euromodal {
namespace {

std::string normalizer_strip(std::string_view text, bool left, bool right) {
  size_t begin = 0, end = 0;
  bool seen = false;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    if (unicode_space(utf8_next(text, at))) continue;
    if (!seen) begin = start;
    seen = true;
    end = at;
  }
  if (!seen) return left || right ? std::string() : std::string(text);
  if (!left) begin = 0;
  if (!right) end = text.size();
  return std::string(text.substr(begin, end - begin));
}

std::string normalizer_lower(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) unicode_append_lower(out, utf8_next(text, at));
  return out;
}

std::string normalizer_strip_accents(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    if (!unicode_mark(utf8_next(text, at))) out.append(text.substr(start, at - start));
  }
  return out;
}

}  // namespace

Normalizer Normalizer::from_json(const nlohmann::json& json, const std::string& what) {
  Normalizer out;
  out.add(json, what, 0);
  return out;
}

void Normalizer::add(const nlohmann::json& json, const std::string& what, int depth) {
  check<CheckpointError>(depth < 16, "{}: normalizers are nested too deep", what);
  if (json.is_null()) return;
  const auto type = json.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const auto& step : json.at("normalizers")) add(step, what, depth + 1);
  } else if (type == "Prepend") {
    steps_.push_back(
        {[word = json.at("prepend").get<std::string>()](std::string_view text, const TextGrowth&) {
           return text.empty() ? std::string() : word + std::string(text);
         },
         /*prefix=*/true});
  } else if (type == "Replace") {
    steps_.push_back({[pattern = Pattern::from_json(json.at("pattern"), what),
                       content = json.at("content").get<std::string>()](std::string_view text,
                                                                        const TextGrowth& growth) {
      return pattern.replace(text, content, growth);
    }});
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    const UnicodeForm form = type == "NFC"    ? UnicodeForm::kNfc
                             : type == "NFD"  ? UnicodeForm::kNfd
                             : type == "NFKC" ? UnicodeForm::kNfkc
                                              : UnicodeForm::kNfkd;
    steps_.push_back({[form](std::string_view text, const TextGrowth&) {
      return unicode_normalize(text, form);
    }});
  } else if (type == "Lowercase") {
    steps_.push_back(
        {[](std::string_view text, const TextGrowth&) { return normalizer_lower(text); }});
  } else if (type == "StripAccents") {
    steps_.push_back(
        {[](std::string_view text, const TextGrowth&) { return normalizer_strip_accents(text); }});
  } else if (type == "Strip") {
    const bool left = json.value("strip_left", true), right = json.value("strip_right", true);
    steps_.push_back({[left, right](std::string_view text, const TextGrowth&) {
      return normalizer_strip(text, left, right);
    }});
  } else {
    throw CheckpointError("{}: normalizer {} is not supported", what, shown_name(type));
  }
}

std::string Normalizer::apply(std::string_view text, bool prefix, TextGrowth& growth) const {
  std::string out(text);
  for (const Step& step : steps_) {
    if (!step.prefix || prefix) out = step.apply(out, growth);
    growth.check_size(out.size());
  }
  growth.finish(out.size());
  return out;
}

}  // namespace euromodal
