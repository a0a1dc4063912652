// memory.cpp — see memory.h.
#include "inference/memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <string>

#include "core/error.h"
#include "inference/decoding.h"

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

int64_t cache_bytes(const KvLayout& layout, int64_t tokens) {
  return kv_pages(tokens) * layout.page_bytes();
}

int64_t generation_cache_bytes(const Llama& llama, int64_t prompt_tokens,
                               const GenerateOptions& options) {
  const KvLayout layout = llama.cache_layout(options.int8_cache);
  // The last token chosen takes no position.
  const int64_t budget = token_budget(prompt_tokens, llama.config(), options),
                longest = prompt_tokens + std::max<int64_t>(0, budget - 1);
  if (options.beams == 1) return cache_bytes(layout, longest);
  // Pages that the prompt fills are shared; the one that it ends in is copied as beams go on.
  const int64_t shared = prompt_tokens / kPagePositions * kPagePositions;
  return cache_bytes(layout, shared) + options.beams * cache_bytes(layout, longest - shared);
}

void check_generation_memory(const Llama& llama, int64_t prompt_tokens,
                             const GenerateOptions& options, int64_t available) {
  if (!llama.embedding_VD().is_cpu()) return;
  constexpr double kMega = 1024.0 * 1024.0;
  const auto needed = static_cast<double>(generation_cache_bytes(llama, prompt_tokens, options)),
             there = static_cast<double>(available);
  check(needed <= 0.9 * there,
        "the keys and values of a prompt of {} tokens and {} new ones need {:.1f} MiB, {:.1f} MiB "
        "of memory are available; shorten the prompt or lower --max-new-tokens{}",
        prompt_tokens, token_budget(prompt_tokens, llama.config(), options), needed / kMega,
        there / kMega, options.int8_cache ? "" : ", or give --kv-cache int8");
}

}  // namespace euromodal
