// dtype.h — the element types of CUDA kernels, as launch arguments carry them.
#pragma once
#include <cstddef>

namespace euromodal {

enum class DType { kF32, kBf16, kF16, kFp8E4M3, kInt8, kInt4, kU8 };

/// Bytes of an element; 0 for kInt4 (two in a byte).
constexpr size_t dtype_bytes(DType type) {
  switch (type) {
    case DType::kF32:
      return 4;
    case DType::kBf16:
    case DType::kF16:
      return 2;
    case DType::kFp8E4M3:
    case DType::kInt8:
    case DType::kU8:
      return 1;
    case DType::kInt4:
      return 0;
  }
  return 0;
}

}  // namespace euromodal
