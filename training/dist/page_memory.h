// page_memory.h — whole pages of memory, for NodeMemory.
#pragma once
#include <cstdint>

namespace euromodal {

int64_t page_bytes();
/// `bytes` (0 or more) rounded up to whole pages, at least one. DistError for a negative number.
int64_t whole_pages(int64_t bytes);
/// [data, data + bytes), whole pages, can be read, and written only if `writable`. False with errno
/// when the system refuses.
bool protect_pages(char* data, int64_t bytes, bool writable);
/// Read-only; DistError when the system refuses.
void seal_pages(char* data, int64_t bytes);

}  // namespace euromodal
