// checkpointing.cpp — see checkpointing.h.
#include "backbone/nn/checkpointing.h"

#include <charconv>

namespace euromodal {

Checkpointing Checkpointing::parse(const Config& config) {
  constexpr std::string_view kEvery = "every ";
  const std::string word = config.str("checkpointing", "none");
  if (word == "none") return {};
  if (word == "mlp") return {Kind::kMlp, 1};
  if (word == "layer") return {Kind::kLayers, 1};
  int64_t every = 0;
  const char* end = word.data() + word.size();
  check<ConfigError>(word.starts_with(kEvery) &&
                         std::from_chars(word.data() + kEvery.size(), end, every).ptr == end &&
                         every >= 1,
                     "{}: expected none, mlp, layer or \"every K\" (blocks, at least 1); got '{}'",
                     config.where("checkpointing"), word);
  return {Kind::kLayers, every};
}

}  // namespace euromodal
