// safetensors_header.h — the JSON header of one safetensors file, parsed and checked in full.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "backbone/weights/safetensors.h"

namespace euromodal {

struct SafetensorsHeader {
  std::vector<TensorInfo> infos;  // in order of offset
  std::map<std::string, std::string> metadata;
  uint64_t data_begin = 0;  // bytes from the start of the file
};

/// `bytes`: the whole file. CheckpointError naming `file`, and the tensor where there is one.
SafetensorsHeader parse_safetensors_header(std::string_view bytes,
                                           const std::filesystem::path& file);

/// "F32" and the like; CheckpointError for a type that the format does not know.
const char* safetensors_dtype_word(at::ScalarType dtype);

/// A name from a file as it may stand in a message: control characters escaped, cut at 120 bytes.
std::string shown_name(std::string_view name);

}  // namespace euromodal
