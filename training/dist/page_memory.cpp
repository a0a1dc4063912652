// page_memory.cpp — see page_memory.h.
#include "training/dist/page_memory.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

#include "core/error.h"

namespace euromodal {

int64_t page_bytes() {
  static const int64_t bytes = ::sysconf(_SC_PAGESIZE);
  return bytes;
}

int64_t whole_pages(int64_t bytes) {
  check<DistError>(bytes >= 0, "node_memory of {} bytes", bytes);
  const int64_t page = page_bytes();
  return std::max<int64_t>((bytes + page - 1) / page, 1) * page;
}

bool protect_pages(char* data, int64_t bytes, bool writable) {
  return ::mprotect(data, static_cast<size_t>(bytes), PROT_READ | (writable ? PROT_WRITE : 0)) == 0;
}

void seal_pages(char* data, int64_t bytes) {
  check<DistError>(protect_pages(data, bytes, /*writable=*/false),
                   "node_memory of {} bytes cannot be made read-only: {}", bytes,
                   std::strerror(errno));
}

}  // namespace euromodal
