// files.cpp — see files.h. POSIX; every failed call names the file and the system's reason.
#include "core/files.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

namespace euromodal {
namespace {

namespace fs = std::filesystem;

std::string files_reason() {
  return std::strerror(errno);
}  // NOLINT(concurrency-mt-unsafe): glibc's is per thread

void files_sync(const fs::path& path, bool folder) {
  const int fd = ::open(path.c_str(), folder ? O_RDONLY | O_DIRECTORY : O_RDONLY);
  if (fd < 0) throw Error("{}: cannot be opened to sync: {}", path.string(), files_reason());
  const int bad = ::fsync(fd);
  const std::string reason = bad ? files_reason() : "";
  ::close(fd);
  if (bad) throw Error("{}: cannot be synced: {}", path.string(), reason);
}

// Unique inside the machine: several ranks may write beside each other.
fs::path files_temporary(const fs::path& file) {
  static std::atomic<int> counter{0};
  fs::path out = file;
  out += fmt::format(".tmp-{}-{}", ::getpid(), counter++);
  return out;
}

fs::path files_parent(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

}  // namespace

MappedFile::MappedFile(const fs::path& file) : path_(file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw Error("{}: cannot be read: {}", file.string(), files_reason());
  struct stat st {};
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    ::close(fd);
    throw Error("{}: is not a file", file.string());
  }
  size_ = static_cast<size_t>(st.st_size);
  if (size_ > 0) {
    void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const std::string reason = data == MAP_FAILED ? files_reason() : "";
    ::close(fd);
    if (data == MAP_FAILED) throw Error("{}: cannot be mapped: {}", file.string(), reason);
    data_ = static_cast<const std::byte*>(data);
  } else {
    ::close(fd);
  }
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

std::string read_text(const fs::path& file) {
  std::error_code ignored;
  check(!fs::is_directory(file, ignored), "{}: is a folder, expected a file", file.string());
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw Error("{}: cannot be read: {}", file.string(), files_reason());
  std::string out;
  char buffer[1 << 16];
  ssize_t n = 0;
  while ((n = ::read(fd, buffer, sizeof buffer)) > 0) out.append(buffer, static_cast<size_t>(n));
  const std::string reason = n < 0 ? files_reason() : "";
  ::close(fd);
  if (n < 0) throw Error("{}: cannot be read: {}", file.string(), reason);
  return out;
}

AtomicFile::AtomicFile(const fs::path& file) : file_(file), temporary_(files_temporary(file)) {
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) throw Error("{}: cannot be written: {}", file.string(), files_reason());
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
  }
}

void AtomicFile::write(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd_, at, std::min(bytes, size_t{1} << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error("{}: cannot be written: {}", file_.string(), files_reason());
    at += n;
    bytes -= static_cast<size_t>(n);
  }
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) throw Error("{}: cannot be synced: {}", file_.string(), files_reason());
  ::close(std::exchange(fd_, -1));
  if (::rename(temporary_.c_str(), file_.c_str()) != 0) {
    const std::string reason = files_reason();
    ::unlink(temporary_.c_str());
    throw Error("{}: cannot be renamed into place: {}", file_.string(), reason);
  }
  files_sync(files_parent(file_), /*folder=*/true);
}

void write_text_atomic(const fs::path& file, std::string_view text) {
  AtomicFile out(file);
  out.write(text);
  out.commit();
}

AtomicFolder::AtomicFolder(const fs::path& dir)
    : dir_(dir.has_filename() ? dir : dir.parent_path()) {
  temporary_ = files_temporary(dir_);
  std::error_code error;
  fs::create_directories(temporary_, error);
  if (error) throw Error("{}: cannot be made: {}", dir_.string(), error.message());
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!done_) fs::remove_all(temporary_, ignored);
}

void AtomicFolder::commit() {
  for (const auto& entry : fs::recursive_directory_iterator(temporary_))
    files_sync(entry.path(), entry.is_directory());
  files_sync(temporary_, /*folder=*/true);
  std::error_code error;
  if (fs::exists(dir_)) {  // an older folder steps aside first: rename cannot replace a folder that
                           // is not empty
    const fs::path old = files_temporary(dir_);
    fs::rename(dir_, old, error);
    if (error) throw Error("{}: cannot be replaced: {}", dir_.string(), error.message());
    fs::rename(temporary_, dir_, error);
    if (error) {
      std::error_code ignored;
      fs::rename(old, dir_, ignored);
      throw Error("{}: cannot be renamed into place: {}", dir_.string(), error.message());
    }
    std::error_code ignored;
    fs::remove_all(old, ignored);
  } else {
    fs::rename(temporary_, dir_, error);
    if (error) throw Error("{}: cannot be renamed into place: {}", dir_.string(), error.message());
  }
  done_ = true;
  files_sync(files_parent(dir_), /*folder=*/true);
}

std::string hash_hex(const void* data, size_t bytes) {
  const XXH128_hash_t hash = XXH3_128bits(data, bytes);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

size_t find_invalid_utf8(std::string_view text) {
  const auto* s = reinterpret_cast<const unsigned char*>(text.data());
  const size_t n = text.size();
  for (size_t i = 0; i < n;) {
    const unsigned char c = s[i];
    if (c < 0x80) {
      ++i;
      continue;
    }
    const size_t extra = c >= 0xC2 && c <= 0xDF   ? 1
                         : c >= 0xE0 && c <= 0xEF ? 2
                         : c >= 0xF0 && c <= 0xF4 ? 3
                                                  : 0;
    if (extra == 0 || i + extra >= n) return i;
    for (size_t k = 1; k <= extra; ++k) {
      if ((s[i + k] & 0xC0) != 0x80) return i;
    }
    // overlong forms, surrogates, beyond U+10FFFF
    if ((c == 0xE0 && s[i + 1] < 0xA0) || (c == 0xED && s[i + 1] > 0x9F) ||
        (c == 0xF0 && s[i + 1] < 0x90) || (c == 0xF4 && s[i + 1] > 0x8F))
      return i;
    i += extra + 1;
  }
  return std::string_view::npos;
}

}  // namespace euromodal
