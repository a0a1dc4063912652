// portable_program.cpp — the portable inner loops of packed linears and decode attention on drawn
// bytes, results as text: scripts/check-aarch64 builds it for two processors and compares. A line:
// name, then numbers ("%a": every bit).
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "backbone/kernels/decode_attention/decode_kernels.h"
#include "backbone/kernels/packed_linear/packed_kernels.h"

namespace {

using namespace euromodal;

uint32_t state = 1;
uint32_t draw() { return (state = state * 1664525U + 1013904223U) >> 8; }
float draw_float() { return static_cast<float>(draw() % 2001) / 1000.0F - 1.0F; }

void print(const std::string& name, const std::vector<float>& numbers) {
  std::printf("%s", name.c_str());
  for (const float x : numbers) std::printf(" %a", static_cast<double>(x));
  std::printf("\n");
}

uint16_t half_of(float x) {  // normal numbers without rounding only
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits >> 16 & 0x8000U) | (((bits >> 23 & 0xFFU) - 112U) << 10) |
                               (bits >> 13 & 0x3FFU));
}
uint16_t bf16_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>(bits >> 16);
}

struct Result {
  std::vector<float>* y;
  int64_t outputs;
};

void store(void* to, const float* tile, int64_t row, int64_t rows, int64_t output,
           int64_t columns) {
  const Result& r = *static_cast<const Result*>(to);
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t o = 0; o < columns; ++o)
      (*r.y)[static_cast<size_t>((row + t) * r.outputs + output + o)] = tile[t * columns + o];
}

void try_packed(const PackedForm& form, const char* name) {
  constexpr int64_t kInputs = 256, kBlocks = 6;
  const PackedKernels kernels = packed::portable();
  for (const int64_t rows : {1, 2, 5, 9}) {
    PackedKernelArgs a;
    a.layout = PackedLayout::of(form, kInputs);
    a.group = form.group;
    a.asymmetric = form.asymmetric;
    a.M = rows;
    a.end = kBlocks;
    std::vector<uint8_t> weight(static_cast<size_t>(kBlocks * a.layout.block));
    for (uint8_t& byte : weight) byte = static_cast<uint8_t>(draw());
    const auto put16 = [&](int64_t at, uint16_t bits) {
      std::memcpy(weight.data() + at, &bits, 2);
    };
    std::vector<float> wide(static_cast<size_t>(rows * kInputs));
    std::vector<int8_t> codes(wide.size());
    std::vector<float> scales(static_cast<size_t>(rows * a.layout.groups));
    std::vector<int32_t> sums(scales.size());
    if (form.form == WeightForm::kBf16) {
      for (int64_t i = 0; i < kBlocks * a.layout.block; i += 2) put16(i, bf16_of(draw_float()));
      for (float& x : wide) x = draw_float();
      a.x = reinterpret_cast<const uint8_t*>(wide.data());
      a.x_bytes = kInputs * 4;
    } else {
      for (int64_t b = 0; b < kBlocks; ++b)
        for (int64_t i = 0; i < a.layout.groups * kPackedOutputs; ++i)
          put16(b * a.layout.block + 2 * i,
                half_of(static_cast<float>(draw() % 1023 + 1) / 1024.0F));
      if (form.form == WeightForm::kInt4 && form.asymmetric)
        for (int64_t b = 0; b < kBlocks; ++b)
          for (int64_t i = 0; i < a.layout.groups * kPackedOutputs; ++i)
            weight[static_cast<size_t>(b * a.layout.block + a.layout.zeros + i)] &= 15;
      for (int8_t& code : codes) code = static_cast<int8_t>(static_cast<int>(draw() % 255) - 127);
      for (size_t g = 0; g < scales.size(); ++g) {
        scales[g] = draw_float();
        for (int64_t i = 0; i < form.group; ++i)
          sums[g] += codes[g * static_cast<size_t>(form.group) + static_cast<size_t>(i)];
      }
      a.x = reinterpret_cast<const uint8_t*>(codes.data());
      a.x_bytes = kInputs;
      a.x_scale_MG = scales.data();
      a.x_sum_MG = sums.data();
    }
    a.weight = weight.data();
    std::vector<float> y(static_cast<size_t>(rows * kBlocks * kPackedOutputs), NAN);
    Result result{&y, kBlocks * kPackedOutputs};
    a.store = store;
    a.to = &result;
    (form.form == WeightForm::kBf16   ? kernels.bf16
     : form.form == WeightForm::kInt8 ? kernels.int8
                                      : kernels.int4)(a);
    print(std::string(name) + "-rows" + std::to_string(rows), y);
  }
}

void try_attention(KvType type, const char* name) {
  const KvLayout layout{type, 1, 2, 40};
  constexpr int64_t kPositions = 100, kGroup = 3, kRows = 2 * kGroup;
  const int64_t W = layout.width();
  std::vector<std::vector<uint8_t>> held;
  std::vector<const uint8_t*> pages;
  for (int64_t p = 0; p < kv_pages(kPositions); ++p) {
    std::vector<uint8_t> page(static_cast<size_t>(layout.page_bytes()));
    for (int64_t head = 0; head < layout.kv_heads; ++head) {
      for (int64_t l = 0; l < 2 * kPagePositions; ++l) {
        uint8_t* row = page.data() + layout.keys_at(0, head) + l * layout.row_bytes();
        for (int64_t n = 0; n < layout.head_dim; ++n) {
          const float x = draw_float();
          const uint16_t bits = type == KvType::kBf16
                                    ? bf16_of(x)
                                    : half_of(x == 0.0F ? 0.5F : std::copysign(0.5F, x));
          const int8_t code = static_cast<int8_t>(x * 100.0F);
          if (type == KvType::kF32) {
            std::memcpy(row + 4 * n, &x, 4);
          } else if (type == KvType::kInt8) {
            std::memcpy(row + n, &code, 1);
          } else {
            std::memcpy(row + 2 * n, &bits, 2);
          }
        }
        if (type != KvType::kInt8) continue;
        const float scale = 0.01F + 0.001F * static_cast<float>(draw() % 7);
        std::memcpy(page.data() + layout.key_scales_at(0, head) + 4 * l, &scale, 4);
      }
    }
    held.push_back(std::move(page));
  }
  for (const auto& page : held) pages.push_back(page.data());
  const int64_t heads = layout.kv_heads;
  std::vector<float> q(static_cast<size_t>(heads * kRows * W), 0.0F);
  for (int64_t r = 0; r < heads * kRows; ++r)
    for (int64_t n = 0; n < layout.head_dim; ++n) q[static_cast<size_t>(r * W + n)] = draw_float();
  std::vector<float> out(static_cast<size_t>(heads * kRows * (W + 2)), 0.0F);
  DecodeTask task;
  task.q = reinterpret_cast<const uint8_t*>(q.data());
  task.pages = pages.data();
  task.head_at = layout.keys_at(0, 0);
  task.head_bytes = layout.head_bytes();
  task.values_at = layout.values_at(0, 0) - task.head_at;
  task.key_scales_at = layout.key_scales_at(0, 0) - task.head_at;
  task.value_scales_at = layout.value_scales_at(0, 0) - task.head_at;
  task.end = kPositions;
  task.heads = heads;
  task.rows = kRows;
  task.group = kGroup;
  task.width = W;
  task.visible = kPositions - 1;
  task.scale = 0.3F;
  task.out = out.data();
  decode::portable(type)(task);
  print(name, out);
}

}  // namespace

int main() {
  try_packed({WeightForm::kBf16}, "near packed-bf16");
  for (const int64_t group : {32, 128}) {
    for (const bool asymmetric : {false, true}) {
      const std::string form = std::to_string(group) + (asymmetric ? "-asym" : "");
      try_packed({WeightForm::kInt8, group, asymmetric}, ("same packed-int8-" + form).c_str());
      try_packed({WeightForm::kInt4, group, asymmetric}, ("same packed-int4-" + form).c_str());
    }
  }
  try_attention(KvType::kF32, "near decode-f32");
  try_attention(KvType::kBf16, "near decode-bf16");
  try_attention(KvType::kF16, "near decode-f16");
  try_attention(KvType::kInt8, "near decode-int8");
}
