// feature_select.cpp — `--features last | pooled | INDEX`.
#include "encoders/feature_select.h"

#include <charconv>

namespace euromodal {

FeatureSelect FeatureSelect::parse(const std::string& word) {
  if (word == "last") return {Kind::kLast, -1};
  if (word == "pooled") return {Kind::kPooled, -1};
  FeatureSelect out{Kind::kHidden, 0};
  const char* end = word.data() + word.size();
  const auto result = std::from_chars(word.data(), end, out.index);
  check<UsageError>(result.ec == std::errc() && result.ptr == end,
                    "--features: got '{}', expected last, pooled or the number of a layer such as "
                    "-2",
                    word);
  return out;
}

int64_t select_blocks(const FeatureSelect& select, int64_t layers) {
  if (select.kind != FeatureSelect::Kind::kHidden) return layers;
  check<UsageError>(
      select.index >= -layers - 1 && select.index <= layers,
      "--features {}: the encoder has {} layers, so hidden states 0 to {} (or {} to -1)",
      select.index, layers, layers, -layers - 1);
  return select.index < 0 ? select.index + layers + 1 : select.index;
}

void refuse_pooled(const std::string& encoder) {
  throw UsageError("--features pooled: {} has no pooled output", encoder);
}

}  // namespace euromodal
