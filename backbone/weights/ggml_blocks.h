// ggml_blocks.h — the number formats of llama.cpp: how many bytes a block of elements takes, and
// what the codes stand for. Reference: ggml-common.h and ggml-quants.c of ggml, and the Python
// package gguf, whose quants.dequantize() gives the same bits.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include <c10/util/Half.h>

namespace euromodal {

/// Numbers as GGUF files store them; those that are not named here are known by size alone.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct GgmlBlock {
  const char* name;   // "Q4_K"
  uint32_t elements;  // of one block
  uint32_t bytes;
};

/// Nothing: no such type.
std::optional<GgmlBlock> ggml_block(GgmlType type);

/// Can dequantize_row() read it?
bool ggml_readable(GgmlType type);
/// Their names, for messages: "F32, F16, ...".
std::string ggml_readable_names();

/// `count` elements (whole blocks) from `bytes`, as llama.cpp dequantises them in f32.
void dequantize_row(GgmlType type, const uint8_t* bytes, int64_t count, float* out);

/// Blocks that are 32 codes and one scale, nothing else: Q8_0 and Q4_0.
bool ggml_has_codes(GgmlType type);
/// Of such a row of `count` elements: codes [count] (Q8_0: 0 to 255 around 128, Q4_0: 0 to 15
/// around 8) and scales [count / 32]; element = scale · (code - middle), exactly.
void split_row(GgmlType type, const uint8_t* bytes, int64_t count, uint8_t* codes,
               c10::Half* scales);

}  // namespace euromodal
