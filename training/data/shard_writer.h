// shard_writer.h — one tar shard, written with libarchive; same members, same bytes.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "training/data/dataset.h"

struct archive;

namespace euromodal {

class ShardWriter {
 public:
  explicit ShardWriter(const std::filesystem::path& file);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;
  /// DataError naming the shard when it cannot be written (disk full).
  void add(const std::string& name, std::string_view bytes);
  void close();
  int64_t bytes() const { return bytes_; }  // of the members so far

 private:
  void require(int code) const;
  std::filesystem::path file_;
  archive* archive_ = nullptr;
  int64_t bytes_ = 0;
};

/// Adds one sample as STEM.json, STEM.0.jpg, ...; media that the record names twice are stored
/// once.
void add_sample(ShardWriter& shard, Sample sample, const std::string& stem);

}  // namespace euromodal
