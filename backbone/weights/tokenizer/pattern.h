// pattern.h — a literal string or a regular expression (PCRE2 with Unicode properties) as the
// tokenizer.json key "pattern" gives it: {"String": " "} or {"Regex": "\\s+"}.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "backbone/weights/tokenizer/text_growth.h"

namespace euromodal {

struct Stretch {
  size_t begin = 0, end = 0;  // bytes
  bool match = false;
};

class Pattern {
 public:
  /// CheckpointError naming `what` when it is neither form or does not compile.
  static Pattern from_json(const nlohmann::json& json, const std::string& what);
  static Pattern regex(const std::string& expression, const std::string& what);
  static Pattern literal(std::string text) { return Pattern(std::move(text)); }

  /// The text cut into matches and what lies between them; covers it, without empty stretches.
  std::vector<Stretch> stretches(std::string_view text) const;
  std::string replace(std::string_view text, std::string_view content,
                      const TextGrowth& growth) const;

 private:
  explicit Pattern(std::string text) : literal_(std::move(text)) {}
  struct Code;
  std::string literal_;
  std::shared_ptr<const Code> code_;
};

}  // namespace euromodal
