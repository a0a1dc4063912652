// json_number.h — whole numbers of tokenizer.json. nlohmann's get<int64_t>() takes fractions and
// numbers that do not fit as well; they are no ids.
#pragma once
#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "backbone/weights/safetensors_header.h"
#include "core/error.h"

namespace euromodal {

/// CheckpointError naming `what` unless `value` is a whole number from 0 to 2^31 - 1.
inline int64_t json_number(const nlohmann::json& value, const std::string& what) {
  const bool whole =
      value.is_number_integer() &&
      (value.is_number_unsigned() ? value.get<uint64_t>() <= INT32_MAX : value.get<int64_t>() >= 0);
  check<CheckpointError>(whole, "{}: {} where a whole number from 0 to 2^31 - 1 is expected", what,
                         shown_name(value.dump()));
  return value.get<int64_t>();
}

}  // namespace euromodal
