// decode_plan.cpp — see decode_plan.h. Parts end at fixed positions, so that a row's bits do not
// depend on how many threads or sequences there are.
#include "backbone/kernels/decode_attention/decode_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "core/error.h"

namespace euromodal {

namespace {

constexpr int64_t kPartPositions = 8 * kPagePositions;

}  // namespace

DecodeKernelChoice decode_kernel([[maybe_unused]] CpuIsa isa, KvType type,
                                 [[maybe_unused]] bool bf16_q) {
#if defined(__x86_64__)
  // (machines with AMX are Intel's, whose vdpbf16ps is slow: cpu_features.cpp)
  if (isa == CpuIsa::kAvx512Bf16 && type == KvType::kBf16 && bf16_q)
    return {decode::avx512_bf16_pairs(), true};
  if (isa >= CpuIsa::kAvx512) return {decode::avx512(type), false};
  if (isa >= CpuIsa::kAvx2) return {decode::avx2(type), false};
#endif
  return {decode::portable(type), false};
}

DecodePlan::DecodePlan(const KvLayout& layout, std::span<const DecodeSequence> sequences,
                       int64_t query_heads, bool bf16, double scale, CpuIsa isa)
    : layout_(layout),
      group_(layout.kv_heads > 0 ? query_heads / layout.kv_heads : 0),
      scale_(static_cast<float>(scale)),
      kernel_(decode_kernel(isa, layout.type, bf16)) {
  const int64_t K = layout.kv_heads, W = layout.width();
  check(K > 0 && query_heads % K == 0,
        "decode_attention: {} query heads, expected a multiple of the {} key/value heads",
        query_heads, K);
  for (const DecodeSequence& s : sequences) {
    check(s.rows >= 0 && s.rows <= s.length,
          "decode_attention: {} rows of a sequence of {} positions", s.rows, s.length);
    check(kv_pages(s.length) <= static_cast<int64_t>(s.pages.size()),
          "decode_attention: {} positions in {} pages of {}", s.length, s.pages.size(),
          kPagePositions);
    for (int64_t head = 0; head < K && s.rows > 0; ++head) {
      first_part_.push_back(parts_.size());
      for (int64_t begin = 0; begin < s.length; begin += kPartPositions) {
        const int64_t rows = s.rows * group_;
        parts_.push_back(
            {&s, head, begin, std::min(s.length, begin + kPartPositions), rows, floats_});
        floats_ += (rows * (2 * W + 2) + 15) / 16 * 16;  // lines of the cache
      }
    }
  }
  first_part_.push_back(parts_.size());
}

template <typename T>
void DecodePlan::put_queries(const T* q, int64_t q_row, const Part& part, float* to) const {
  const int64_t N = layout_.head_dim, W = layout_.width();
  const DecodeSequence& s = *part.sequence;
  for (int64_t r = 0; r < part.rows; ++r) {
    const T* from = q + (s.row + r / group_) * q_row + (part.head * group_ + r % group_) * N;
    if (kernel_.bf16_q) {
      auto* row = reinterpret_cast<c10::BFloat16*>(to) + r * W;
      for (int64_t n = 0; n < W; ++n)
        row[n] = n < N ? static_cast<c10::BFloat16>(from[n]) : c10::BFloat16(0.0F);
    } else {
      float* row = to + r * W;
      for (int64_t n = 0; n < W; ++n) row[n] = n < N ? static_cast<float>(from[n]) : 0.0F;
    }
  }
}

template <typename T>
void DecodePlan::run(int64_t first, int64_t last, int64_t layer, const T* q, int64_t q_row,
                     float* workspace) const {
  const int64_t W = layout_.width();
  for (int64_t i = first; i < last; ++i) {
    const Part& part = parts_[static_cast<size_t>(i)];
    float* const queries = workspace + part.at;
    put_queries(q, q_row, part, queries);
    DecodeTask task;
    task.q = reinterpret_cast<const uint8_t*>(queries);
    task.pages = part.sequence->pages.data();
    task.keys_at = layout_.keys_at(layer, part.head);
    task.values_at = layout_.values_at(layer, part.head);
    task.key_scales_at = layout_.key_scales_at(layer, part.head);
    task.value_scales_at = layout_.value_scales_at(layer, part.head);
    if (i + 1 < last) {
      const Part& next = parts_[static_cast<size_t>(i + 1)];
      task.next = next.sequence->pages[static_cast<size_t>(next.begin / kPagePositions)] +
                  layout_.keys_at(layer, next.head);
    }
    task.begin = part.begin;
    task.end = part.end;
    task.rows = part.rows;
    task.group = group_;
    task.width = W;
    task.visible = part.sequence->length - part.sequence->rows + 1;
    task.scale = scale_;
    task.out_RW = queries + part.rows * W;
    task.max_R = task.out_RW + part.rows * W;
    task.sum_R = task.max_R + part.rows;
    kernel_.run(task);
  }
}

template <typename T>
void DecodePlan::join(int64_t first, int64_t last, float* workspace, T* out,
                      int64_t out_row) const {
  const int64_t N = layout_.head_dim, W = layout_.width();
  for (int64_t j = first; j < last; ++j) {
    const std::span<const Part> parts = std::span<const Part>(parts_)
                                            .first(first_part_[static_cast<size_t>(j) + 1])
                                            .subspan(first_part_[static_cast<size_t>(j)]);
    const DecodeSequence& s = *parts[0].sequence;
    const int64_t rows = parts[0].rows;
    float* const sum_N = workspace + parts[0].at;  // the queries' place, which are done with
    const auto result = [&](const Part& p) { return workspace + p.at + rows * W; };
    const auto max_of = [&](const Part& p, int64_t r) { return result(p)[rows * W + r]; };
    for (int64_t r = 0; r < rows; ++r) {
      float largest = -std::numeric_limits<float>::infinity(), total = 0.0F;
      for (const Part& p : parts) largest = std::max(largest, max_of(p, r));
      std::fill(sum_N, sum_N + N, 0.0F);
      for (const Part& p : parts) {
        if (p.begin >= s.length - s.rows + 1 + r / group_) break;  // not seen
        const float share = std::exp(max_of(p, r) - largest);
        const float* sums = result(p) + r * W;
        total += share * result(p)[rows * (W + 1) + r];
        for (int64_t n = 0; n < N; ++n) sum_N[n] += share * sums[n];
      }
      T* to = out + (s.row + r / group_) * out_row + (parts[0].head * group_ + r % group_) * N;
      const float inverse = 1.0F / total;
      for (int64_t n = 0; n < N; ++n) to[n] = static_cast<T>(sum_N[n] * inverse);
    }
  }
}

#define EM_DECODE_PLAN(T)                                                                    \
  template void DecodePlan::run(int64_t, int64_t, int64_t, const T*, int64_t, float*) const; \
  template void DecodePlan::join(int64_t, int64_t, float*, T*, int64_t) const;
EM_DECODE_PLAN(float)
EM_DECODE_PLAN(c10::BFloat16)
EM_DECODE_PLAN(c10::Half)
#undef EM_DECODE_PLAN

}  // namespace euromodal
