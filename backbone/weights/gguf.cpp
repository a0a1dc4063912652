// gguf.cpp — mapped GGUF files and their tensors.
#include "backbone/weights/gguf.h"

#include <algorithm>
#include <charconv>
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

constexpr const char* kPartsKey = "split.count";
constexpr const char* kPartKey = "split.no";
constexpr const char* kPartsTensorsKey = "split.tensors.count";

/// NAME, number and count of NAME-00001-of-00003.gguf.
struct GgufPartName {
  std::string name;
  int64_t number = 0, count = 0;

  static std::optional<GgufPartName> read(const std::filesystem::path& file) {
    const std::string stem = file.extension() == ".gguf" ? file.stem().string() : "";
    constexpr size_t kEnd = 15;  // "-00001-of-00003"
    if (stem.size() <= kEnd) return std::nullopt;
    const std::string end = stem.substr(stem.size() - kEnd);
    GgufPartName out{stem.substr(0, stem.size() - kEnd)};
    const auto digits = [&](size_t at, int64_t& value) {
      const char* const to = end.data() + at + 5;
      return std::from_chars(end.data() + at, to, value).ptr == to;
    };
    if (end[0] != '-' || end.substr(6, 4) != "-of-" || !digits(1, out.number) ||
        !digits(10, out.count))
      return std::nullopt;
    return out;
  }
  std::string file(int64_t of_number) const {
    return fmt::format("{}-{:05}-of-{:05}.gguf", name, of_number, count);
  }
};

}  // namespace

struct GgufFile::Impl {
  struct Part {
    char* data;  // the file's first byte
    uint64_t data_begin;
  };

  explicit Impl(const std::filesystem::path& file) {
    header = add(file);
    const int64_t count = header.size(kPartsKey, 1);
    if (count > 1) add_parts(file, count);
    list();
  }
  Impl(std::string bytes, const std::string& name) : memory(std::move(bytes)) {
    header = parse_gguf_header(memory, name);
    const int64_t count = header.size(kPartsKey, 1);
    check<CheckpointError>(count <= 1, "{}: is one of {} parts of a model ({})", name, count,
                           kPartsKey);
    parts.push_back({memory.data(), header.data_begin});
    list();
  }

  GgufHeader add(const std::filesystem::path& file) {
    const auto& mapping = mappings.emplace_back(std::make_unique<PrivateMapping>(file));
    GgufHeader out = parse_gguf_header(mapping->text(), file);
    for (GgufTensor& tensor : out.tensors) tensor.part = parts.size();
    parts.push_back({mapping->data(), out.data_begin});
    return out;
  }

  /// All parts of the model to which `file`, already added, belongs.
  void add_parts(const std::filesystem::path& file, int64_t count) {
    const auto name = GgufPartName::read(file);
    check<CheckpointError>(name && name->count == count,
                           "{}: is one of {} parts of a model ({}), and must be named as such: "
                           "NAME-00001-of-{:05}.gguf",
                           header.file, count, kPartsKey, count);
    mappings.clear();
    parts.clear();
    for (int64_t i = 0; i < count; ++i) {
      const std::filesystem::path path = file.parent_path() / name->file(i + 1);
      std::error_code ignored;
      check<CheckpointError>(std::filesystem::exists(path, ignored),
                             "{}: part {} of {} is missing; expected the file {}", header.file,
                             i + 1, count, path.string());
      GgufHeader part = add(path);
      check<CheckpointError>(part.size(kPartsKey, 1) == count && part.size(kPartKey, 0) == i,
                             "{}: calls itself part {} of {} ({} + 1, {}), its name says {} of {}",
                             part.file, part.size(kPartKey, 0) + 1, part.size(kPartsKey, 1),
                             kPartKey, kPartsKey, i + 1, count);
      if (i == 0) {
        header = std::move(part);
        continue;
      }
      std::move(part.tensors.begin(), part.tensors.end(), std::back_inserter(header.tensors));
    }
    const auto tensors = static_cast<int64_t>(header.tensors.size());
    const int64_t announced = header.size(kPartsTensorsKey, tensors);
    check<CheckpointError>(tensors == announced, "{}: {} is {}, but the {} parts hold {} tensors",
                           header.file, kPartsTensorsKey, announced, count, tensors);
  }

  void list() {
    for (const GgufTensor& tensor : header.tensors) {
      const bool added = by_name.emplace(tensor.name, &tensor).second;
      check<CheckpointError>(added, "{}: tensor {} is in two parts", header.file,
                             shown_name(tensor.name));
    }
  }

  std::vector<std::unique_ptr<PrivateMapping>> mappings;
  std::string memory;
  std::vector<Part> parts;
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
  const Impl::Part& part = impl_->parts[tensor.part];
  return reinterpret_cast<const uint8_t*>(part.data) + part.data_begin + tensor.begin;
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
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path, ignored)) {
    if (entry.path().extension() == ".gguf") files.push_back(entry.path());
  }
  if (files.empty()) return std::nullopt;
  std::sort(files.begin(), files.end());
  if (files.size() == 1) return files[0];
  const auto first = GgufPartName::read(files[0]);
  for (const fs::path& file : files) {
    const auto part = GgufPartName::read(file);
    if (!first || !part || part->name != first->name || part->count != first->count)
      return std::nullopt;  // which one?
  }
  return files[0];
}

}  // namespace euromodal
