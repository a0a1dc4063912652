// memory.cpp — see memory.h.
#include "inference/memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <string>

#include <c10/core/ScalarType.h>

#include "core/error.h"

namespace euromodal {

namespace {

/// The number in a file of one number; -1: no file, or "max".
int64_t number_in(const char* file) {
  std::ifstream in(file);
  int64_t value = -1;
  return in >> value ? value : -1;
}

}  // namespace

int64_t available_memory() {
  int64_t out = std::numeric_limits<int64_t>::max();
  std::ifstream info("/proc/meminfo");
  for (std::string key, rest; info >> key;) {
    int64_t kilobytes = 0;
    info >> kilobytes;
    std::getline(info, rest);
    if (key == "MemAvailable:") out = kilobytes * 1024;
  }
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max"),
                used = number_in("/sys/fs/cgroup/memory.current");
  if (limit >= 0 && used >= 0) out = std::min(out, std::max<int64_t>(0, limit - used));
  return out;
}

int64_t cache_bytes_per_token(const LlamaConfig& config, at::ScalarType dtype) {
  return 2 * config.num_layers * config.num_kv_heads * config.head_dim *
         static_cast<int64_t>(c10::elementSize(dtype));
}

void check_cache_memory(const LlamaConfig& config, at::ScalarType dtype, int64_t tokens) {
  constexpr double kMega = 1024.0 * 1024.0;
  const double needed = static_cast<double>(tokens) *
                        static_cast<double>(cache_bytes_per_token(config, dtype)),
               there = static_cast<double>(available_memory());
  check(needed <= 0.9 * there,
        "the keys and values of {} tokens need {:.0f} MiB, {:.0f} MiB of memory are available; "
        "shorten the prompt or lower --max-new-tokens",
        tokens, needed / kMega, there / kMega);
}

}  // namespace euromodal
