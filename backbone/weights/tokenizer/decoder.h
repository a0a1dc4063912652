// decoder.h — the `decoder` part of tokenizer.json: tokens back to text.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "backbone/weights/tokenizer/text_growth.h"

namespace euromodal {

class Decoder {
 public:
  static Decoder from_json(const nlohmann::json& json, const std::string& what);
  /// CheckpointError when the tokens grow without bound.
  std::string apply(std::vector<std::string> tokens) const;
  /// What one token adds in the middle of a text, byte by byte.
  std::string bytes_of(const std::string& token) const;
  bool byte_level() const { return byte_level_; }

 private:
  using Step = std::function<void(std::vector<std::string>& tokens, const TextGrowth& growth)>;
  void add(const nlohmann::json& json, const std::string& what, int depth);
  std::vector<Step> steps_;
  bool joined_ = true;  // without any decoder tokens are joined by spaces
  bool byte_level_ = false, byte_fallback_ = false;
};

/// The byte of a byte-fallback token "<0x41>", or -1.
int byte_fallback_value(const std::string& token);

}  // namespace euromodal
