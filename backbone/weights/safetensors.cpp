// safetensors.cpp — one mapped file, and the writer of one file.
#include "backbone/weights/safetensors.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include <ATen/ops/from_blob.h>
#include <nlohmann/json.hpp>

#include "backbone/weights/private_mapping.h"
#include "backbone/weights/safetensors_bytes.h"
#include "backbone/weights/safetensors_header.h"
#include "core/error.h"
#include "core/files.h"

namespace euromodal {
namespace {

/// Lets go of the mapping that a tensor kept alive; a storage with this deleter lies in one.
void safetensors_unmap(void* kept) { delete static_cast<std::shared_ptr<void>*>(kept); }

}  // namespace

struct SafetensorsFile::Impl {
  explicit Impl(const std::filesystem::path& file)
      : mapping(file), header(parse_safetensors_header(mapping.text(), file)) {
    for (const TensorInfo& info : header.infos) by_name.emplace(info.name, &info);
  }
  PrivateMapping mapping;
  SafetensorsHeader header;
  std::unordered_map<std::string, const TensorInfo*> by_name;
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file)
    : impl_(std::make_shared<Impl>(file)) {}

const std::vector<TensorInfo>& SafetensorsFile::infos() const { return impl_->header.infos; }

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return impl_->header.metadata;
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto found = impl_->by_name.find(name);
  return found == impl_->by_name.end() ? nullptr : found->second;
}

at::Tensor SafetensorsFile::tensor(const TensorInfo& info) const {
  const auto options = at::TensorOptions().dtype(info.dtype);
  const size_t bytes = info.end - info.begin;
  if (bytes == 0) return at::empty(info.shape, options);
  char* data = impl_->mapping.data() + impl_->header.data_begin + info.begin;
  if (info.dtype == at::kBool)
    check<CheckpointError>(std::all_of(data, data + bytes, [](char c) { return c == 0 || c == 1; }),
                           "{}: tensor {}: a BOOL byte is neither 0 nor 1", info.file.string(),
                           shown_name(info.name));
  // Writers pad the header to 8 bytes; a file that does not is legal but cannot be used in place.
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(info.dtype) != 0) {
    at::Tensor copy = at::empty(info.shape, options);
    std::memcpy(copy.mutable_data_ptr(), data, bytes);
    return copy;
  }
  return at::for_blob(data, info.shape)
      .context(new std::shared_ptr<void>(impl_), &safetensors_unmap)
      .options(options)
      .make_tensor();
}

bool in_mapped_file(const at::Tensor& tensor) {
  return tensor.storage().data_ptr().get_deleter() == &safetensors_unmap;
}

namespace {

struct SafetensorsLayout {
  std::string head;  // length, JSON and padding
  std::vector<const NamedTensor*> order;
};

SafetensorsLayout safetensors_layout(const std::filesystem::path& file,
                                     const std::vector<NamedTensor>& tensors,
                                     const SafetensorsOptions& options) {
  SafetensorsLayout out;
  std::vector<const NamedTensor*>& order = out.order;
  std::unordered_set<std::string> names;
  for (const NamedTensor& named : tensors) {
    const std::string shown = shown_name(named.name);
    check<CheckpointError>(named.name != "__metadata__",
                           "{}: a tensor cannot be named __metadata__", file.string());
    check<CheckpointError>(find_invalid_utf8(named.name) == std::string::npos,
                           "{}: tensor name {} is not valid UTF-8", file.string(), shown);
    check<CheckpointError>(names.insert(named.name).second, "{}: tensor {} is given twice",
                           file.string(), shown);
    check<CheckpointError>(named.tensor.defined(), "{}: tensor {} is undefined", file.string(),
                           shown);
    order.push_back(&named);
  }
  // Large elements first, as the format asks: every tensor then starts at a multiple of its
  // element. Tensors of one size keep their order.
  std::stable_sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return a->tensor.element_size() > b->tensor.element_size();
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!options.metadata.empty()) header["__metadata__"] = options.metadata;
  uint64_t at = 0;
  for (const NamedTensor* named : order) {
    const at::Tensor& tensor = named->tensor;
    const uint64_t end = at + static_cast<uint64_t>(tensor.numel() * tensor.element_size());
    header[named->name] = {{"dtype", safetensors_dtype_word(tensor.scalar_type())},
                           {"shape", tensor.sizes().vec()},
                           {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));

  out.head = length + text;
  return out;
}

/// Calls write(pointer, bytes) for each piece of the file, in order.
template <typename Write>
void safetensors_write(const SafetensorsLayout& layout, const Write& write) {
  write(layout.head.data(), layout.head.size());
  for (const NamedTensor* named : layout.order) {
    const at::Tensor tensor = named->tensor.detach().cpu().contiguous();
    if (tensor.numel() > 0)
      write(static_cast<const char*>(tensor.const_data_ptr()),
            static_cast<size_t>(tensor.numel() * tensor.element_size()));
  }
}

}  // namespace

void save_safetensors(const std::filesystem::path& file, const std::vector<NamedTensor>& tensors,
                      const SafetensorsOptions& options) {
  const SafetensorsLayout layout = safetensors_layout(file, tensors, options);
  AtomicFile out(file);
  safetensors_write(layout, [&](const char* data, size_t bytes) { out.write(data, bytes); });
  out.commit();
}

std::string safetensors_bytes(const std::string& name, const std::vector<NamedTensor>& tensors,
                              const SafetensorsOptions& options) {
  std::string out;
  safetensors_write(safetensors_layout(name, tensors, options),
                    [&](const char* data, size_t bytes) { out.append(data, bytes); });
  return out;
}

SafetensorsTensor read_safetensors_tensor(std::string_view bytes, const std::string& name,
                                          const std::string& tensor) {
  SafetensorsHeader header = parse_safetensors_header(bytes, name);
  const auto info = std::find_if(header.infos.begin(), header.infos.end(),
                                 [&](const TensorInfo& one) { return one.name == tensor; });
  check<CheckpointError>(info != header.infos.end(), "{}: no such tensor in the file: {}", name,
                         shown_name(tensor));
  SafetensorsTensor out{at::empty(info->shape, at::TensorOptions().dtype(info->dtype)),
                        std::move(header.metadata)};
  if (out.tensor.numel() > 0)
    std::memcpy(out.tensor.mutable_data_ptr(), bytes.data() + header.data_begin + info->begin,
                info->end - info->begin);
  return out;
}

at::ScalarType parse_dtype(const std::string& word) {
  std::string_view name = word;
  if (name.starts_with("torch.")) name.remove_prefix(6);
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  if (name == "float64") return at::kDouble;
  throw ConfigError("dtype {}: expected float32, bfloat16, float16 or float64", shown_name(word));
}

}  // namespace euromodal
