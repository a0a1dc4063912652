// pattern.cpp — see pattern.h.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "backbone/weights/tokenizer/pattern.h"

#include <nlohmann/json.hpp>
#include <pcre2.h>

#include "backbone/weights/safetensors_header.h"
#include "core/error.h"

namespace euromodal {

struct Pattern::Code {
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code{nullptr, &pcre2_code_free};
};

Pattern Pattern::from_json(const nlohmann::json& json, const std::string& what) {
  if (json.is_object() && json.contains("String") && json["String"].is_string()) {
    check<CheckpointError>(!json["String"].get_ref<const std::string&>().empty(),
                           "{}: the pattern is empty", what);
    return literal(json["String"].get<std::string>());
  }
  if (json.is_object() && json.contains("Regex") && json["Regex"].is_string())
    return regex(json["Regex"].get<std::string>(), what);
  throw CheckpointError("{}: pattern must be {{\"String\": ...}} or {{\"Regex\": ...}}, got {}",
                        what, shown_name(json.dump()));
}

Pattern Pattern::regex(const std::string& expression, const std::string& what) {
  int error = 0;
  size_t offset = 0;
  auto code = std::make_shared<Code>();
  // Files hold Oniguruma syntax, which for the expressions in use is Perl's.
  code->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &offset,
                                 nullptr));
  if (!code->code) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    throw CheckpointError("{}: regular expression {} at byte {}: {}", what, shown_name(expression),
                          offset, reinterpret_cast<const char*>(message));
  }
  pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE);  // slower without, the same result
  Pattern pattern{std::string()};
  pattern.code_ = std::move(code);
  return pattern;
}

std::vector<Stretch> Pattern::stretches(std::string_view text) const {
  std::vector<Stretch> out;
  size_t from = 0;
  const auto add = [&](size_t begin, size_t end) {
    if (begin == end) return;
    if (from < begin) out.push_back({from, begin, false});
    out.push_back({begin, end, true});
    from = end;
  };
  if (!code_) {
    for (size_t at = text.find(literal_); at != std::string_view::npos;
         at = text.find(literal_, at + literal_.size()))
      add(at, at + literal_.size());
  } else {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
        pcre2_match_data_create_from_pattern(code_->code.get(), nullptr), &pcre2_match_data_free);
    for (size_t at = 0; at < text.size();) {
      const int found = pcre2_match(code_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                    text.size(), at, PCRE2_NO_UTF_CHECK, data.get(), nullptr);
      if (found == PCRE2_ERROR_NOMATCH) break;
      check<DataError>(found >= 0, "tokenizer: the regular expression gave up at byte {} (code {})",
                       at, found);
      const size_t* bounds = pcre2_get_ovector_pointer(data.get());
      add(bounds[0], bounds[1]);
      at = bounds[1];
      if (bounds[0] == bounds[1]) {  // an empty match: on by one character
        ++at;
        while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
      }
    }
  }
  if (from < text.size()) out.push_back({from, text.size(), false});
  return out;
}

std::string Pattern::replace(std::string_view text, std::string_view content,
                             const TextGrowth& growth) const {
  std::string out;
  for (const Stretch& stretch : stretches(text)) {
    out.append(stretch.match ? content : text.substr(stretch.begin, stretch.end - stretch.begin));
    growth.check_size(out.size());
  }
  return out;
}

}  // namespace euromodal
