// kv_layout.h — how a page holds keys and values on the CPU: P positions of all layers and heads;
// in it, head by head, keys [P, W], values [P, W] and, for int8, the f32 scales of each key and
// value row [2, P]. K key/value heads, N head width, W its padded width.
//
// Codes of int8 lie by fours, as instructions take them that multiply and add bytes by fours: keys
// [W/4, P, 4] (numbers of a position), values [W/32, P/4, 32, 4] (positions of a column).
#pragma once
#include <cstdint>

namespace euromodal {

inline constexpr int64_t kPagePositions = 64;
inline constexpr int64_t kValueColumns = 32;  // int8: columns of values beside each other

/// kInt8: code · scale, symmetric, one scale for each position and head. Keys are stored as
/// code + kKeyZero, without sign, values with theirs. kFloat8: e4m3, in pages of a device alone.
enum class KvType { kF32, kBf16, kF16, kInt8, kFloat8 };
inline constexpr int32_t kKeyZero = 128;

constexpr int64_t kv_type_bytes(KvType type) {
  return type == KvType::kF32 ? 4 : type == KvType::kInt8 || type == KvType::kFloat8 ? 1 : 2;
}

/// int8: where number n of a position is, behind the keys or values of a head.
constexpr int64_t key_code_at(int64_t position, int64_t n) {
  return (n / 4 * kPagePositions + position) * 4 + n % 4;
}
constexpr int64_t value_code_at(int64_t position, int64_t n) {
  const int64_t four = n / kValueColumns * (kPagePositions / 4) + position / 4;
  return (four * kValueColumns + n % kValueColumns) * 4 + position % 4;
}

struct KvLayout {
  KvType type = KvType::kF32;
  int64_t layers = 0, kv_heads = 0, head_dim = 0;

  bool operator==(const KvLayout&) const = default;
  int64_t width() const { return (head_dim + 31) / 32 * 32; }  // what is behind N is zero
  int64_t row_bytes() const { return width() * kv_type_bytes(type); }
  int64_t head_bytes() const {
    return 2 * kPagePositions * (row_bytes() + (type == KvType::kInt8 ? 4 : 0));
  }
  int64_t page_bytes() const { return layers * kv_heads * head_bytes(); }
  /// Bytes of one position over all layers.
  int64_t token_bytes() const { return page_bytes() / kPagePositions; }

  // Offsets in a page.
  int64_t keys_at(int64_t layer, int64_t head) const {
    return (layer * kv_heads + head) * head_bytes();
  }
  int64_t values_at(int64_t layer, int64_t head) const {
    return keys_at(layer, head) + kPagePositions * row_bytes();
  }
  int64_t key_scales_at(int64_t layer, int64_t head) const {
    return keys_at(layer, head) + 2 * kPagePositions * row_bytes();
  }
  int64_t value_scales_at(int64_t layer, int64_t head) const {
    return key_scales_at(layer, head) + 4 * kPagePositions;
  }
};

constexpr int64_t kv_pages(int64_t positions) {
  return (positions + kPagePositions - 1) / kPagePositions;
}

}  // namespace euromodal
