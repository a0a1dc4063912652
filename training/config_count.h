// config_count.h — whole numbers with a lower bound, as a run's YAML gives them.
#pragma once
#include <cstdint>
#include <string>

#include "core/config.h"

namespace euromodal {

/// `config[key]`, or `otherwise` where it is missing; ConfigError naming file, line and key below
/// `min`.
inline int64_t config_count(const Config& config, const std::string& key, int64_t otherwise,
                            int64_t min) {
  const int64_t value = config.i64(key, otherwise);
  check<ConfigError>(value >= min, "{}: expected {} or more, got {}", config.where(key), min,
                     value);
  return value;
}

}  // namespace euromodal
