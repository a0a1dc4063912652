// files.h — mapped files, files and folders that are complete or absent (temporary name, fsync,
// rename), hashes.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "core/error.h"

namespace euromodal {

/// A file mapped for reading; movable. DataError/CheckpointError are the caller's to throw: this
/// throws Error naming the file.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// The whole file; Error "FILE: cannot be read: REASON".
std::string read_text(const std::filesystem::path& file);

/// Writes under a temporary name beside `file`; commit() syncs and renames, the destructor without
/// commit() removes it.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& file);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* data, size_t bytes);  // Error "FILE: No space left on device ..."
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();
  const std::filesystem::path& temporary() const { return temporary_; }

 private:
  std::filesystem::path file_, temporary_;
  int fd_ = -1;
};
void write_text_atomic(const std::filesystem::path& file, std::string_view text);

/// A folder that appears whole: write into path(), then commit() syncs every file, and renames (an
/// older `dir` is replaced).
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::filesystem::path& dir);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path dir_, temporary_;
  bool done_ = false;
};

/// XXH3 128 bits as 32 hex digits.
std::string hash_hex(const void* data, size_t bytes);
inline std::string hash_hex(std::string_view text) { return hash_hex(text.data(), text.size()); }

/// Position of the first byte that is not valid UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);

}  // namespace euromodal
