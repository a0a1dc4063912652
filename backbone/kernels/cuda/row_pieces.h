// row_pieces.h — rows cut into pieces, one a block of an elementwise kernel. Host and device; all
// in 64 bits: tensors of more than 2^31 elements are common.
#pragma once
#include <cstdint>

namespace euromodal {

struct RowPieces {
  int64_t rows, width;  // elements of a row
  int64_t piece;        // elements of a piece; the last one of a row may be shorter

  constexpr int64_t per_row() const { return (width + piece - 1) / piece; }
  constexpr int64_t count() const { return rows * per_row(); }
  constexpr int64_t row(int64_t block) const { return block / per_row(); }
  /// First element of the piece in its row, and the one behind its last.
  constexpr int64_t begin(int64_t block) const { return block % per_row() * piece; }
  constexpr int64_t end(int64_t block) const {
    const int64_t end = begin(block) + piece;
    return end < width ? end : width;
  }
};

}  // namespace euromodal
