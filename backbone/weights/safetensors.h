// safetensors.h — reader (mapped, header checked in full) and writer of safetensors files, and of
// Hugging Face folders with or without index. Format: https://huggingface.co/docs/safetensors (8
// bytes little-endian header length, JSON header, data).
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace euromodal {

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

struct TensorInfo {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // bytes, relative to the start of the data
  std::filesystem::path file;
};

/// One mapped file. Opening checks: header length, JSON depth, duplicate names, dtypes, shapes
/// (negative, overflowing), offsets (inside the file, size = shape x dtype, no overlap, no hole).
/// Every fault is a CheckpointError that names the file, and the tensor where there is one.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);
  const std::vector<TensorInfo>& infos() const;  // in order of offset
  const std::map<std::string, std::string>& metadata() const;
  const TensorInfo* find(const std::string& name) const;
  /// A view of the mapped bytes that keeps the mapping alive. Writing to it is safe and stays in
  /// memory (private mapping: the kernel copies the page).
  at::Tensor tensor(const TensorInfo& info) const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// Whether `tensor` lies in a mapped file (whole, or as a view): processes that map the same file
/// hold such memory once.
bool in_mapped_file(const at::Tensor& tensor);

/// All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` names.
/// Each tensor that the index names must be in its shard, and every shard's tensors in the index.
std::vector<TensorInfo> list_model_tensors(const std::filesystem::path& dir);
std::vector<NamedTensor> load_model_tensors(const std::filesystem::path& dir);

struct SafetensorsOptions {
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  uint64_t shard_bytes = 5'000'000'000;  // save_model_tensors only
};
/// One file, atomically; tensors in the order given, but large elements before small ones, so that
/// all are aligned (made contiguous and brought to the CPU).
void save_safetensors(const std::filesystem::path& file, const std::vector<NamedTensor>& tensors,
                      const SafetensorsOptions& options = {});
/// `model.safetensors`, or shards `model-0000i-of-0000n.safetensors` and their index.
void save_model_tensors(const std::filesystem::path& dir, const std::vector<NamedTensor>& tensors,
                        const SafetensorsOptions& options = {});

at::ScalarType parse_dtype(
    const std::string& word);  // float32, bfloat16, float16, float64 ("torch." before it allowed);
                               // else ConfigError naming the word

}  // namespace euromodal
