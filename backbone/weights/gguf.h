// gguf.h — reader of GGUF files, llama.cpp's model format (mapped, header checked in full).
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (magic, version, counts, keys
// with values, tensors with type and offset, aligned data).
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/weights/ggml_blocks.h"

namespace euromodal {

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;     // as PyTorch has it, the last one contiguous (the file: reversed)
  uint64_t begin = 0, bytes = 0;  // relative to the start of the data
  size_t part = 0;                // the file that holds it, of a model in several
};

/// Types of values as the format numbers them.
enum class GgufKind : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

struct GgufValue {
  GgufKind kind = GgufKind::kU8;  // of an array: of its elements
  bool array = false;
  uint64_t count = 1;
  std::string_view bytes;                 // numbers as they lie in the file; of a string its text
  std::vector<std::string_view> strings;  // of an array of strings
};

/// Everything before the data. Views point into the bytes it was parsed from.
struct GgufHeader {
  std::string file;  // for messages
  std::map<std::string, GgufValue, std::less<>> values;
  std::vector<GgufTensor> tensors;  // by part, then in order of offset
  uint64_t data_begin = 0;

  bool has(std::string_view key) const;
  /// CheckpointError naming file and key: missing (without `otherwise`), other type, below zero.
  int64_t size(std::string_view key) const;
  int64_t size(std::string_view key, int64_t otherwise) const;
  double f64(std::string_view key) const;
  double f64(std::string_view key, double otherwise) const;
  bool boolean(std::string_view key, bool otherwise) const;
  std::string str(std::string_view key, std::string otherwise) const;
  const std::vector<std::string_view>& strings(std::string_view key) const;
  std::vector<double> numbers(std::string_view key) const;  // an array of any number type
};

/// `bytes`: the whole file. CheckpointError naming `file`, and key or tensor: not GGUF, version
/// other than 2 and 3, truncated anywhere, counts and lengths beyond the file, a name twice,
/// unknown types, shapes that overflow or split a block, offsets outside, not aligned or
/// overlapping.
GgufHeader parse_gguf_header(std::string_view bytes, const std::filesystem::path& file);

/// Codes and scales of a tensor whose type has nothing else (ggml_has_codes).
struct GgufCodes {
  at::Tensor codes_OI;   // u8
  at::Tensor scales_OG;  // f16, one for 32 inputs
};

/// One mapped file, or all parts of a model that llama-gguf-split cut into
/// NAME-00001-of-000NN.gguf and so on; of these, any part names the whole.
class GgufFile {
 public:
  /// CheckpointError as parse_gguf_header; a part that is missing, belongs elsewhere or repeats a
  /// tensor; another number of tensors than the first part announces.
  explicit GgufFile(const std::filesystem::path& file);
  /// The same of bytes in memory, in one part; `name`: for messages.
  GgufFile(std::string bytes, const std::string& name);
  /// Keys of the first part, tensors of all.
  const GgufHeader& header() const;
  const GgufTensor* find(std::string_view name) const;
  /// F32, F16 and BF16: a view of the mapped bytes that keeps the mapping alive (writing to it
  /// stays in memory). Others: dequantised to `dtype`. `rows`: row r of what comes back is the
  /// stored row rows[r] (a copy); empty: as stored. CheckpointError naming tensor and type when
  /// the type cannot be read.
  at::Tensor tensor(const GgufTensor& tensor, at::ScalarType dtype,
                    std::span<const int64_t> rows = {}) const;
  /// Of a matrix.
  GgufCodes codes(const GgufTensor& tensor, std::span<const int64_t> rows = {}) const;

 private:
  const uint8_t* data(const GgufTensor& tensor) const;
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// The GGUF file that is meant where a model folder is expected: `path` when it is a file, or the
/// only .gguf of a folder that holds no config.json (the first part when all .gguf there are parts
/// of one model).
std::optional<std::filesystem::path> find_gguf(const std::filesystem::path& path);

}  // namespace euromodal
