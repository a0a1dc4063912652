// safetensors_bytes.h — a safetensors file in memory: a member of a shard.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "backbone/weights/safetensors.h"

namespace euromodal {

/// The bytes that save_safetensors() would write. `name`: for messages.
std::string safetensors_bytes(const std::string& name, const std::vector<NamedTensor>& tensors,
                              const SafetensorsOptions& options = {});

/// One tensor of such bytes, copied, and the file's metadata. CheckpointError naming `name`: the
/// faults of SafetensorsFile, or no such tensor.
struct SafetensorsTensor {
  at::Tensor tensor;
  std::map<std::string, std::string> metadata;
};
SafetensorsTensor read_safetensors_tensor(std::string_view bytes, const std::string& name,
                                          const std::string& tensor);

}  // namespace euromodal
