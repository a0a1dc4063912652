// decode_ahead.h — fetching of keys and values ahead of their use, in the order of the memory:
// heads of a page, then the next page. Included as decode_tile.h.
//
// A processor drops fetches that come faster than its memory (Zen 5: as soon as some 60 are under
// way), and a dropped line is waited for in full. So fetches are spread over all the work on a
// head, and every line gets three chances; where it is already near, another costs nothing.
#pragma once
#include <cstdint>

#include "backbone/kernels/decode_attention/decode_kernels.h"

namespace euromodal::decode {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kChances = 3;
constexpr int64_t kAheadBytes[kChances] = {16384, 8192, 3072};

/// What lies ahead of a head, as far as it is known.
class Ahead {
 public:
  Ahead() = default;
  /// `head` of a run of heads that ends at `end`; the next run begins at `next`, or null.
  Ahead(const uint8_t* head, const uint8_t* end, const uint8_t* next) {
    for (int64_t i = 0; i < kChances; ++i) {
      chances_[i] = {head + kAheadBytes[i], end, next};
      chances_[i].turn();
    }
  }
  /// Fetches the next lines of each chance.
  [[gnu::always_inline]] inline void take(int64_t lines) {
#pragma GCC unroll 3
    for (Chance& chance : chances_) chance.take(lines);
  }

 private:
  struct Chance {
    const uint8_t *at = nullptr, *end = nullptr, *next = nullptr;

    [[gnu::always_inline]] inline void take(int64_t lines) {
      if (at == nullptr) return;
#pragma GCC unroll 16
      for (int64_t i = 0; i < lines; ++i) __builtin_prefetch(at + i * kLine);
      at += lines * kLine;
      turn();
    }
    [[gnu::always_inline]] inline void turn() {
      if (at < end) return;
      at = next == nullptr ? nullptr : next + (at - end);
      end = reinterpret_cast<const uint8_t*>(UINTPTR_MAX);
    }
  };
  Chance chances_[kChances];
};

}  // namespace
}  // namespace euromodal::decode
