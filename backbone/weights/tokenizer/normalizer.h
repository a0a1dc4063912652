// normalizer.h — the `normalizer` part of tokenizer.json: a list of steps on the text.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "backbone/weights/tokenizer/text_growth.h"

namespace euromodal {

class Normalizer {
 public:
  /// null: no steps. CheckpointError naming `what` and the unknown type.
  static Normalizer from_json(const nlohmann::json& json, const std::string& what);
  /// Without `prefix` what Prepend would put before the text is left out. CheckpointError when it
  /// grows beyond `growth`.
  std::string apply(std::string_view text, bool prefix, TextGrowth& growth) const;
  bool empty() const { return steps_.empty(); }

 private:
  struct Step {
    std::function<std::string(std::string_view, const TextGrowth&)> apply;
    bool prefix = false;
  };
  void add(const nlohmann::json& json, const std::string& what, int depth);
  std::vector<Step> steps_;
};

}  // namespace euromodal
