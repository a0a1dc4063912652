// row_layout.h — how the feature rows of one media item are laid out; what an encoder says of its
// output and an adapter reads.
#pragma once
#include <cstdint>

namespace euromodal {

/// frames x height x width rows, row-major, after `prefix` class tokens. Sound: 1 x 1 x L.
struct RowLayout {
  int64_t frames = 1, height = 1, width = 0, prefix = 0;
  int64_t rows() const { return prefix + frames * height * width; }
  bool operator==(const RowLayout&) const = default;
};

}  // namespace euromodal
