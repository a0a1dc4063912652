// skinny_layout.h — how skinny_linear wants codes in memory. A row is a sequence of units of 64
// bytes, padded to whole blocks of 128 inputs. A lane of the tensor cores' operand reads 16 bytes
// of a unit: of the unit's octets (8 neighbouring codes), octet o is piece o / 4 of lane o % 4. So
// the four lanes hold neighbouring octets at the same place, every step of the product stays within
// one group of 32 inputs, and x lies in its usual order. bf16 weights are rows as they are.
//
//   int4          128 codes a unit, pieces of 4 bytes; the lower half of a byte is the earlier code
//   int8, e4m3    64 codes a unit, pieces of 8 bytes
#pragma once
#include <cstdint>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

inline constexpr int64_t kSkinnyBlock = 128;  // inputs
inline constexpr int64_t kSkinnyUnit = 64;    // bytes

constexpr int64_t skinny_blocks(int64_t inputs) {
  return (inputs + kSkinnyBlock - 1) / kSkinnyBlock;
}
/// Bytes of a row of codes.
constexpr int64_t skinny_row_bytes(DType type, int64_t inputs) {
  return type == DType::kBf16
             ? inputs * 2
             : skinny_blocks(inputs) * kSkinnyBlock / (type == DType::kInt4 ? 2 : 1);
}
/// Scales (and zero points) of a row in groups of `group` inputs.
constexpr int64_t skinny_groups(int64_t inputs, int64_t group) {
  return skinny_blocks(inputs) * (kSkinnyBlock / group);
}
/// The byte of the row that holds the code of input k.
constexpr int64_t skinny_byte(DType type, int64_t k) {
  const int64_t codes = type == DType::kInt4 ? 2 : 1, in_unit = k % (kSkinnyUnit * codes),
                octet = in_unit / 8, piece = 8 / codes;
  return k / (kSkinnyUnit * codes) * kSkinnyUnit + octet % 4 * 16 + octet / 4 * piece +
         in_unit % 8 / codes;
}

}  // namespace euromodal
