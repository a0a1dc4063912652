// private_mapping.cpp — see private_mapping.h.
#include "backbone/weights/private_mapping.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace euromodal {

PrivateMapping::PrivateMapping(const std::filesystem::path& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  check<CheckpointError>(fd >= 0, "{}: cannot be read: {}", file.string(), std::strerror(errno));
  struct stat status {};
  const bool regular = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  if (regular && status.st_size > 0) {
    size_ = static_cast<size_t>(status.st_size);
    data_ = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
  }
  const int error = errno;
  ::close(fd);
  check<CheckpointError>(regular, "{}: is not a regular file", file.string());
  check<CheckpointError>(data_ != MAP_FAILED, "{}: cannot be mapped: {}", file.string(),
                         std::strerror(error));
}

PrivateMapping::~PrivateMapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace euromodal
