// gguf.cpp — one mapped GGUF file and its tensors.
#include "backbone/weights/gguf.h"

#include <cstring>
#include <unordered_map>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/weights/private_mapping.h"
#include "backbone/weights/safetensors_header.h"
#include "core/error.h"

namespace euromodal {
namespace {

constexpr int64_t kRowsGrain = 64;

/// The type of numbers that are no codes.
std::optional<at::ScalarType> gguf_plain_type(GgmlType type) {
  if (type == GgmlType::kF32) return at::kFloat;
  if (type == GgmlType::kF16) return at::kHalf;
  if (type == GgmlType::kBF16) return at::kBFloat16;
  return std::nullopt;
}

}  // namespace

struct GgufFile::Impl {
  explicit Impl(const std::filesystem::path& file)
      : mapping(file), data(mapping->data()), header(parse_gguf_header(mapping->text(), file)) {
    list();
  }
  Impl(std::string bytes, const std::string& name)
      : memory(std::move(bytes)), data(memory.data()), header(parse_gguf_header(memory, name)) {
    list();
  }
  void list() {
    for (const GgufTensor& tensor : header.tensors) by_name.emplace(tensor.name, &tensor);
  }
  std::optional<PrivateMapping> mapping;
  std::string memory;
  char* data;
  GgufHeader header;
  std::unordered_map<std::string_view, const GgufTensor*> by_name;
};

GgufFile::GgufFile(const std::filesystem::path& file) : impl_(std::make_shared<Impl>(file)) {}
GgufFile::GgufFile(std::string bytes, const std::string& name)
    : impl_(std::make_shared<Impl>(std::move(bytes), name)) {}

const GgufHeader& GgufFile::header() const { return impl_->header; }

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found = impl_->by_name.find(name);
  return found == impl_->by_name.end() ? nullptr : found->second;
}

const uint8_t* GgufFile::data(const GgufTensor& tensor) const {
  return reinterpret_cast<const uint8_t*>(impl_->data) + impl_->header.data_begin + tensor.begin;
}

at::Tensor GgufFile::tensor(const GgufTensor& tensor, at::ScalarType dtype,
                            std::span<const int64_t> rows) const {
  check<CheckpointError>(ggml_readable(tensor.type),
                         "{}: tensor {} has type {}, expected one of {}; take a file of another "
                         "quantisation",
                         impl_->header.file, shown_name(tensor.name), ggml_block(tensor.type)->name,
                         ggml_readable_names());
  const uint8_t* bytes = data(tensor);
  const int64_t columns = tensor.shape.back();
  if (const auto stored = gguf_plain_type(tensor.type)) {
    const auto options = at::TensorOptions().dtype(*stored);
    at::Tensor view;
    if (reinterpret_cast<uintptr_t>(bytes) % c10::elementSize(*stored) == 0) {
      view = at::from_blob(
          const_cast<uint8_t*>(bytes), tensor.shape, [keep = impl_](void*) {}, options);
    } else {  // an alignment of 1 is legal
      view = at::empty(tensor.shape, options);
      std::memcpy(view.mutable_data_ptr(), bytes, tensor.bytes);
    }
    if (rows.empty()) return view;
    return view.index_select(0, at::tensor(rows, at::kLong));
  }
  at::Tensor out = at::empty(tensor.shape, dtype);
  const int64_t count = out.numel() / columns;
  const auto row_bytes = static_cast<int64_t>(tensor.bytes) / count;
  const at::Tensor out_RC = out.view({count, columns});
  at::parallel_for(0, count, kRowsGrain, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode no_tracking;
    const at::Tensor row = at::empty({columns}, at::kFloat);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t from = rows.empty() ? r : rows[static_cast<size_t>(r)];
      dequantize_row(tensor.type, bytes + from * row_bytes, columns, row.mutable_data_ptr<float>());
      out_RC.select(0, r).copy_(row);
    }
  });
  return out;
}

GgufCodes GgufFile::codes(const GgufTensor& tensor, std::span<const int64_t> rows) const {
  check(tensor.shape.size() == 2 && ggml_has_codes(tensor.type),
        "GgufFile::codes: tensor {} of {} dimensions and type {}", tensor.name, tensor.shape.size(),
        ggml_block(tensor.type)->name);
  const int64_t count = tensor.shape[0], columns = tensor.shape[1], groups = columns / 32;
  const GgufCodes out{at::empty({count, columns}, at::kByte),
                      at::empty({count, groups}, at::kHalf)};
  auto* codes = out.codes_OI.mutable_data_ptr<uint8_t>();
  auto* scales = out.scales_OG.mutable_data_ptr<c10::Half>();
  const uint8_t* bytes = data(tensor);
  const auto row_bytes = static_cast<int64_t>(tensor.bytes) / count;
  at::parallel_for(0, count, kRowsGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t from = rows.empty() ? r : rows[static_cast<size_t>(r)];
      split_row(tensor.type, bytes + from * row_bytes, columns, codes + r * columns,
                scales + r * groups);
    }
  });
  return out;
}

std::optional<std::filesystem::path> find_gguf(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) return path;
  if (!fs::is_directory(path, ignored) || fs::exists(path / "config.json", ignored))
    return std::nullopt;
  std::optional<fs::path> out;
  for (const auto& entry : fs::directory_iterator(path, ignored)) {
    if (entry.path().extension() != ".gguf") continue;
    if (out) return std::nullopt;  // which one?
    out = entry.path();
  }
  return out;
}

}  // namespace euromodal
