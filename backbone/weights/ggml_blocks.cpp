// ggml_blocks.cpp — see ggml_blocks.h. Blocks of 32: a scale (f16), maybe a minimum (f16) or the
// fifth bits, then codes. Super-blocks of 256 (K): scales of their sub-blocks in 6 or 8 bits.
#include "backbone/weights/ggml_blocks.h"

#include <array>
#include <bit>
#include <cstring>

#include "core/error.h"

namespace euromodal {
namespace {

struct GgmlEntry {
  uint32_t type;
  GgmlBlock block;
};

constexpr std::array<GgmlEntry, 31> kGgmlTypes = {{
    {0, {"F32", 1, 4}},         {1, {"F16", 1, 2}},         {2, {"Q4_0", 32, 18}},
    {3, {"Q4_1", 32, 20}},      {6, {"Q5_0", 32, 22}},      {7, {"Q5_1", 32, 24}},
    {8, {"Q8_0", 32, 34}},      {10, {"Q2_K", 256, 84}},    {11, {"Q3_K", 256, 110}},
    {12, {"Q4_K", 256, 144}},   {13, {"Q5_K", 256, 176}},   {14, {"Q6_K", 256, 210}},
    {15, {"Q8_K", 256, 292}},   {16, {"IQ2_XXS", 256, 66}}, {17, {"IQ2_XS", 256, 74}},
    {18, {"IQ3_XXS", 256, 98}}, {19, {"IQ1_S", 256, 50}},   {20, {"IQ4_NL", 32, 18}},
    {21, {"IQ3_S", 256, 110}},  {22, {"IQ2_S", 256, 82}},   {23, {"IQ4_XS", 256, 136}},
    {24, {"I8", 1, 1}},         {25, {"I16", 1, 2}},        {26, {"I32", 1, 4}},
    {27, {"I64", 1, 8}},        {28, {"F64", 1, 8}},        {29, {"IQ1_M", 256, 56}},
    {30, {"BF16", 1, 2}},       {34, {"TQ1_0", 256, 54}},   {35, {"TQ2_0", 256, 66}},
    {39, {"MXFP4", 32, 17}},
}};

constexpr int64_t kHalfBlock = 16;

float half_at(const uint8_t* bytes) {
  c10::Half value;
  std::memcpy(&value.x, bytes, 2);
  return static_cast<float>(value);
}

float bf16_at(const uint8_t* bytes) {
  uint16_t bits = 0;
  std::memcpy(&bits, bytes, 2);
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Scale, then for Q4_1 and Q5_1 a minimum, for Q5_0 and Q5_1 32 fifth bits, then 16 bytes: low
// nibbles are the first 16 elements, high nibbles the rest.
void small_block(const uint8_t* block, bool minimum, bool fifth, float* out) {
  const float scale = half_at(block);
  const float least = minimum ? half_at(block + 2) : 0.0F;
  const uint8_t* at = block + (minimum ? 4 : 2);
  uint32_t high = 0;
  if (fifth) {
    std::memcpy(&high, at, 4);
    at += 4;
  }
  const int middle = minimum ? 0 : fifth ? 16 : 8;
  for (int64_t i = 0; i < kHalfBlock; ++i) {
    const int low_code = static_cast<int>((at[i] & 15U) | (high >> i & 1U) << 4);
    const int high_code = static_cast<int>((at[i] >> 4U) | (high >> (i + kHalfBlock) & 1U) << 4);
    out[i] = static_cast<float>(low_code - middle) * scale;
    out[i + kHalfBlock] = static_cast<float>(high_code - middle) * scale;
    if (minimum) {  // not else: adding 0 would change -0
      out[i] += least;
      out[i + kHalfBlock] += least;
    }
  }
}

// Sub-block j of a K block: its scale and minimum, 6 bits each, from 12 bytes.
void six_bits(const uint8_t* packed, int64_t j, float& scale, float& least) {
  if (j < 4) {
    scale = static_cast<float>(packed[j] & 63U);
    least = static_cast<float>(packed[j + 4] & 63U);
  } else {
    scale = static_cast<float>((packed[j + 4] & 15U) | (packed[j - 4] >> 6U) << 4);
    least = static_cast<float>((packed[j + 4] >> 4U) | (packed[j] >> 6U) << 4);
  }
}

// Q4_K and Q5_K: d, dmin, 12 bytes of scales, (Q5_K: 32 bytes of fifth bits,) 128 bytes of nibbles;
// 64 elements share 32 bytes, low nibbles first.
void k_block(const uint8_t* block, bool fifth, float* out) {
  const float d = half_at(block), dmin = half_at(block + 2);
  const uint8_t* scales = block + 4;
  const uint8_t* high = block + 16;
  const uint8_t* codes = block + (fifth ? 48 : 16);
  for (int64_t j = 0; j < 8; ++j) {
    float scale = 0, least = 0;
    six_bits(scales, j, scale, least);
    scale *= d;
    least *= dmin;
    for (int64_t i = 0; i < 32; ++i) {
      const uint8_t byte = codes[j / 2 * 32 + i];
      unsigned code = j % 2 == 0 ? byte & 15U : byte >> 4U;
      if (fifth) code |= (high[i] >> j & 1U) << 4;
      out[j * 32 + i] = scale * static_cast<float>(code) - least;
    }
  }
}

// Q6_K: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 scales i8, d.
void q6_block(const uint8_t* block, float* out) {
  const float d = half_at(block + 208);
  for (int64_t half = 0; half < 2; ++half) {
    const uint8_t* low = block + half * 64;
    const uint8_t* high = block + 128 + half * 32;
    const uint8_t* scales = block + 192 + half * 8;
    float* y = out + half * 128;
    for (int64_t quarter = 0; quarter < 4; ++quarter) {
      for (int64_t i = 0; i < 32; ++i) {
        const uint8_t byte = low[quarter % 2 * 32 + i];
        const unsigned four = quarter < 2 ? byte & 15U : byte >> 4U;
        const int code = static_cast<int>(four | (high[i] >> (2 * quarter) & 3U) << 4) - 32;
        const auto scale = static_cast<int8_t>(scales[quarter * 2 + i / 16]);
        y[quarter * 32 + i] = d * static_cast<float>(scale) * static_cast<float>(code);
      }
    }
  }
}

void q8_block(const uint8_t* block, float* out) {
  const float scale = half_at(block);
  for (int64_t i = 0; i < 32; ++i)
    out[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * scale;
}

}  // namespace

std::optional<GgmlBlock> ggml_block(GgmlType type) {
  for (const GgmlEntry& entry : kGgmlTypes) {
    if (entry.type == static_cast<uint32_t>(type)) return entry.block;
  }
  return std::nullopt;
}

std::string ggml_readable_names() {
  std::string out;
  for (const GgmlEntry& entry : kGgmlTypes) {
    if (!ggml_readable(static_cast<GgmlType>(entry.type))) continue;
    if (!out.empty()) out += ", ";
    out += entry.block.name;
  }
  return out;
}

bool ggml_readable(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
    case GgmlType::kF16:
    case GgmlType::kQ4_0:
    case GgmlType::kQ4_1:
    case GgmlType::kQ5_0:
    case GgmlType::kQ5_1:
    case GgmlType::kQ8_0:
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K:
    case GgmlType::kQ6_K:
    case GgmlType::kBF16:
      return true;
  }
  return false;
}

void dequantize_row(GgmlType type, const uint8_t* bytes, int64_t count, float* out) {
  const auto block = ggml_block(type);
  check(block && ggml_readable(type) && count % block->elements == 0,
        "dequantize_row: {} elements of type {}", count, static_cast<uint32_t>(type));
  for (int64_t at = 0; at < count;
       at += block->elements, bytes += block->bytes, out += block->elements) {
    switch (type) {
      case GgmlType::kF32:
        std::memcpy(out, bytes, 4);
        break;
      case GgmlType::kF16:
        *out = half_at(bytes);
        break;
      case GgmlType::kBF16:
        *out = bf16_at(bytes);
        break;
      case GgmlType::kQ4_0:
      case GgmlType::kQ4_1:
      case GgmlType::kQ5_0:
      case GgmlType::kQ5_1:
        small_block(bytes, type == GgmlType::kQ4_1 || type == GgmlType::kQ5_1,
                    type == GgmlType::kQ5_0 || type == GgmlType::kQ5_1, out);
        break;
      case GgmlType::kQ8_0:
        q8_block(bytes, out);
        break;
      case GgmlType::kQ4_K:
      case GgmlType::kQ5_K:
        k_block(bytes, type == GgmlType::kQ5_K, out);
        break;
      case GgmlType::kQ6_K:
        q6_block(bytes, out);
        break;
    }
  }
}

bool ggml_has_codes(GgmlType type) { return type == GgmlType::kQ8_0 || type == GgmlType::kQ4_0; }

void split_row(GgmlType type, const uint8_t* bytes, int64_t count, uint8_t* codes,
               c10::Half* scales) {
  check(ggml_has_codes(type) && count % 32 == 0, "split_row: {} elements of type {}", count,
        static_cast<uint32_t>(type));
  const bool four = type == GgmlType::kQ4_0;
  for (int64_t at = 0; at < count; at += 32, bytes += four ? 18 : 34, codes += 32, ++scales) {
    std::memcpy(&scales->x, bytes, 2);
    const uint8_t* q = bytes + 2;
    for (int64_t i = 0; i < 32; ++i) {
      if (four)
        codes[i] = i < kHalfBlock ? q[i] & 15U : q[i - kHalfBlock] >> 4U;
      else
        codes[i] = q[i] ^ 0x80U;  // i8 + 128
    }
  }
}

}  // namespace euromodal
