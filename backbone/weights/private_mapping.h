// private_mapping.h — a file mapped privately and writably: pages stay shared with the page cache
// until somebody writes (training updates weights in place), then the kernel copies that page. The
// file never changes.
#pragma once
#include <cstddef>
#include <filesystem>
#include <string_view>

namespace euromodal {

class PrivateMapping {
 public:
  /// CheckpointError naming the file: unreadable, not a regular file, cannot be mapped.
  explicit PrivateMapping(const std::filesystem::path& file);
  ~PrivateMapping();
  PrivateMapping(const PrivateMapping&) = delete;
  PrivateMapping& operator=(const PrivateMapping&) = delete;
  char* data() const { return static_cast<char*>(data_); }
  std::string_view text() const { return {data(), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace euromodal
