// decode_attention.cpp — parts of sequences by kernels of the machine's instruction set, put
// together by their maxima. Parts are cut by position alone, so that bits do not depend on how many
// threads or sequences there are.
#include "backbone/kernels/decode_attention/decode_attention.h"

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/checks.h"
#include "backbone/kernels/decode_attention/decode_kernels.h"
#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

constexpr int64_t kPartPositions = 8 * kPagePositions;

/// One key/value head of a sequence over a part of its positions.
struct DecodePart {
  const DecodeSequence* sequence;
  int64_t head, begin, end;
  int64_t rows;    // new rows times the group
  int64_t result;  // in the workspace: [rows, W] sums, [rows] maxima, [rows] sums of weights
};

template <typename T>
void query_rows(const T* q, const DecodePart& part, int64_t group, const KvLayout& layout,
                int64_t q_row, bool bf16, uint8_t* to) {
  const int64_t N = layout.head_dim, W = layout.width();
  const DecodeSequence& s = *part.sequence;
  for (int64_t r = 0; r < part.rows; ++r) {
    const T* from = q + (s.row + r / group) * q_row + (part.head * group + r % group) * N;
    if (bf16) {
      auto* row = reinterpret_cast<c10::BFloat16*>(to) + r * W;
      for (int64_t n = 0; n < W; ++n)
        row[n] = n < N ? static_cast<c10::BFloat16>(from[n]) : c10::BFloat16(0.0F);
    } else {
      auto* row = reinterpret_cast<float*>(to) + r * W;
      for (int64_t n = 0; n < W; ++n) row[n] = n < N ? static_cast<float>(from[n]) : 0.0F;
    }
  }
}

/// Rows of one sequence and key/value head from their parts.
template <typename T>
void join_parts(std::span<const DecodePart> parts, const float* workspace, int64_t group,
                const KvLayout& layout, int64_t out_row, T* out) {
  const int64_t N = layout.head_dim, W = layout.width(), rows = parts[0].rows;
  const DecodeSequence& s = *parts[0].sequence;
  std::vector<float> sum_N(static_cast<size_t>(N));
  for (int64_t r = 0; r < rows; ++r) {
    const auto max_of = [&](const DecodePart& p) { return workspace[p.result + rows * W + r]; };
    float largest = -std::numeric_limits<float>::infinity(), total = 0.0F;
    for (const DecodePart& p : parts) largest = std::max(largest, max_of(p));
    std::fill(sum_N.begin(), sum_N.end(), 0.0F);
    for (const DecodePart& p : parts) {
      if (p.begin >= s.length - s.rows + 1 + r / group) break;  // not seen
      const float share = std::exp(max_of(p) - largest);
      const float* sums = workspace + p.result + r * W;
      total += share * workspace[p.result + rows * (W + 1) + r];
      for (int64_t n = 0; n < N; ++n) sum_N[static_cast<size_t>(n)] += share * sums[n];
    }
    T* to = out + (s.row + r / group) * out_row + (parts[0].head * group + r % group) * N;
    const float inverse = 1.0F / total;
    for (int64_t n = 0; n < N; ++n) to[n] = static_cast<T>(sum_N[static_cast<size_t>(n)] * inverse);
  }
}

void decode_check(const at::Tensor& q_THN, const KvLayout& layout, int64_t layer,
                  std::span<const DecodeSequence> sequences, const at::Tensor& out_THN) {
  check_shape(q_THN, {-1, -1, layout.head_dim}, "decode_attention", "q_THN");
  check_shape(out_THN, q_THN.sizes(), "decode_attention", "out_THN");
  check_like(out_THN, q_THN, "decode_attention", "out_THN");
  check(out_THN.is_contiguous(), "decode_attention: out_THN is not contiguous");
  check(layout.kv_heads > 0 && q_THN.size(1) % layout.kv_heads == 0,
        "decode_attention: {} query heads, expected a multiple of the {} key/value heads",
        q_THN.size(1), layout.kv_heads);
  check(layer >= 0 && layer < layout.layers, "decode_attention: layer {} of {}", layer,
        layout.layers);
  for (const DecodeSequence& s : sequences) {
    check(s.row >= 0 && s.rows >= 0 && s.row + s.rows <= q_THN.size(0) && s.rows <= s.length,
          "decode_attention: rows {} to {} of {}, of a sequence of {} positions", s.row,
          s.row + s.rows, q_THN.size(0), s.length);
    check(kv_pages(s.length) <= static_cast<int64_t>(s.pages.size()),
          "decode_attention: {} positions in {} pages of {}", s.length, s.pages.size(),
          kPagePositions);
  }
}

}  // namespace

DecodeKernelChoice decode_kernel(CpuIsa isa, KvType type, bool bf16_q) {
#if defined(__x86_64__)
  // (machines with AMX are Intel's, whose vdpbf16ps is slow: cpu_features.cpp)
  if (isa == CpuIsa::kAvx512Bf16 && type == KvType::kBf16 && bf16_q)
    return {decode::avx512_bf16_pairs(), true};
  if (isa >= CpuIsa::kAvx512) return {decode::avx512(type), false};
  if (isa >= CpuIsa::kAvx2) return {decode::avx2(type), false};
#endif
  return {decode::portable(type), false};
}

void decode_attention(const at::Tensor& q_any, const KvLayout& layout, int64_t layer,
                      std::span<const DecodeSequence> sequences, double scale,
                      const at::Tensor& out_THN, CpuIsa isa) {
  decode_check(q_any, layout, layer, sequences, out_THN);
  const at::Tensor q_THN = q_any.contiguous();
  const int64_t W = layout.width(), K = layout.kv_heads, group = q_THN.size(1) / K;
  const DecodeKernelChoice kernel =
      decode_kernel(isa, layout.type, q_THN.scalar_type() == at::kBFloat16);

  std::vector<DecodePart> parts;
  std::vector<size_t> first_part;  // of each sequence and head that has rows
  int64_t floats = 0;
  for (const DecodeSequence& s : sequences) {
    for (int64_t head = 0; head < K && s.rows > 0; ++head) {
      first_part.push_back(parts.size());
      for (int64_t begin = 0; begin < s.length; begin += kPartPositions) {
        const int64_t rows = s.rows * group;
        parts.push_back(
            {&s, head, begin, std::min(s.length, begin + kPartPositions), rows, floats});
        floats += rows * (W + 2);
      }
    }
  }
  if (parts.empty()) return;
  first_part.push_back(parts.size());
  const at::Tensor space = at::empty({floats}, at::kFloat);
  auto* const workspace = space.mutable_data_ptr<float>();

  for_float_dtype(q_THN.scalar_type(), "decode_attention", [&](auto zero) {
    using T = decltype(zero);
    const T* const q = q_THN.const_data_ptr<T>();
    T* const out = out_THN.mutable_data_ptr<T>();
    at::parallel_for(0, static_cast<int64_t>(parts.size()), 1, [&](int64_t first, int64_t last) {
      std::vector<uint8_t> q_rows;
      for (int64_t i = first; i < last; ++i) {
        const DecodePart& part = parts[static_cast<size_t>(i)];
        q_rows.resize(static_cast<size_t>(part.rows * W * 4));
        query_rows(q, part, group, layout, q_THN.stride(0), kernel.bf16_q, q_rows.data());
        DecodeTask task;
        task.q = q_rows.data();
        task.pages = part.sequence->pages.data();
        task.keys_at = layout.keys_at(layer, part.head);
        task.values_at = layout.values_at(layer, part.head);
        task.key_scales_at = layout.key_scales_at(layer, part.head);
        task.value_scales_at = layout.value_scales_at(layer, part.head);
        if (i + 1 < last) {
          const DecodePart& next = parts[static_cast<size_t>(i + 1)];
          task.next = next.sequence->pages[static_cast<size_t>(next.begin / kPagePositions)] +
                      layout.keys_at(layer, next.head);
        }
        task.begin = part.begin;
        task.end = part.end;
        task.rows = part.rows;
        task.group = group;
        task.width = W;
        task.visible = part.sequence->length - part.sequence->rows + 1;
        task.scale = static_cast<float>(scale);
        task.out_RW = workspace + part.result;
        task.max_R = task.out_RW + part.rows * W;
        task.sum_R = task.max_R + part.rows;
        kernel.run(task);
      }
    });
    const auto joins = static_cast<int64_t>(first_part.size()) - 1;
    const int64_t grain = std::max<int64_t>(1, 65536 * joins / floats);
    at::parallel_for(0, joins, grain, [&](int64_t first, int64_t last) {
      for (int64_t j = first; j < last; ++j) {
        const size_t at = first_part[static_cast<size_t>(j)],
                     end = first_part[static_cast<size_t>(j) + 1];
        join_parts(std::span<const DecodePart>(parts).subspan(at, end - at), workspace, group,
                   layout, out_THN.stride(0), out);
      }
    });
  });
}

}  // namespace euromodal
