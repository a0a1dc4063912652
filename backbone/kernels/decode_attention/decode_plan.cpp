// decode_plan.cpp — see decode_plan.h. Spans end at fixed positions, so that a row's bits do not
// depend on how many threads or sequences there are. In a page the heads of a layer follow each
// other: a part of all heads is read in long runs, which memory gives faster.
#include "backbone/kernels/decode_attention/decode_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "backbone/kernels/largest_size.h"
#include "backbone/kernels/simd.h"
#include "core/error.h"

namespace euromodal {

namespace {

constexpr int64_t kSpanPositions = 8 * kPagePositions;
constexpr int64_t kFirstBytes = 4096;

constexpr int64_t in_lines(int64_t floats) { return (floats + 15) / 16 * 16; }

void fetch_first(const uint8_t* keys) {  // which nobody has fetched ahead
  for (int64_t at = 0; at < kFirstBytes; at += 64) __builtin_prefetch(keys + at);
}

/// A query row of N numbers, W in memory, in the form of the kernel.
template <typename T>
[[gnu::always_inline]] inline void put_query(const T* from, int64_t N, int64_t W, QueryForm form,
                                             void* to, float* scale, int32_t* offset) {
  if (form == QueryForm::kF32) {
    auto* row = static_cast<float*>(to);
    for (int64_t n = 0; n < N; ++n) row[n] = static_cast<float>(from[n]);
    std::fill(row + N, row + W, 0.0F);
    return;
  }
  if (form == QueryForm::kBf16) {
    auto* row = static_cast<uint16_t*>(to);
    for (int64_t n = 0; n < N; ++n) row[n] = bf16_bits(static_cast<float>(from[n]));
    std::fill(row + N, row + W, uint16_t{0});
    return;
  }
  const float largest = largest_size(from, N);
  const bool finite = !std::isnan(largest);
  // A power of two: most of what bf16 holds is exact.
  constexpr float kTiny = 1e-30F;
  const float fits = largest > kTiny ? static_cast<float>(decode_codes_limit(W)) / largest : 1.0F;
  const auto factor = std::bit_cast<float>(std::bit_cast<uint32_t>(fits) & 0xFF800000U);
  *scale = finite ? 1.0F / factor : largest;
  *offset = 0;
  auto *high = static_cast<int8_t*>(to), *low = high + W;
  std::fill(high, low + W, int8_t{0});
  if (!finite || largest <= kTiny) return;
  int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t n = 0; n < N; ++n) {
    const int32_t code = static_cast<int32_t>(std::nearbyint(static_cast<float>(from[n]) * factor));
    const int32_t upper = (code + 128) >> 8;
    high[n] = static_cast<int8_t>(upper);
    low[n] = static_cast<int8_t>(code - 256 * upper);
    sum += code;
  }
  *offset = kKeyZero * sum;
}

EM_CPU_CLONES void query_row(const float* from, int64_t N, int64_t W, QueryForm form, void* to,
                             float* scale, int32_t* offset) {
  put_query(from, N, W, form, to, scale, offset);
}
EM_CPU_CLONES void query_row(const c10::BFloat16* from, int64_t N, int64_t W, QueryForm form,
                             void* to, float* scale, int32_t* offset) {
  put_query(from, N, W, form, to, scale, offset);
}
EM_CPU_CLONES void query_row(const c10::Half* from, int64_t N, int64_t W, QueryForm form, void* to,
                             float* scale, int32_t* offset) {
  put_query(from, N, W, form, to, scale, offset);
}

}  // namespace

DecodeKernelChoice decode_kernel([[maybe_unused]] CpuIsa isa, KvType type,
                                 [[maybe_unused]] bool bf16_q) {
#if defined(__x86_64__)
  // (machines with AMX are Intel's, whose vdpbf16ps is slow: cpu_features.cpp)
  if (isa == CpuIsa::kAvx512Bf16 && type == KvType::kBf16 && bf16_q)
    return {decode::avx512_bf16_pairs(), QueryForm::kBf16};
  if (isa >= CpuIsa::kAvx512Vnni && type == KvType::kInt8 && bf16_q)
    return {decode::avx512_vnni_codes(), QueryForm::kCodes};
  if (isa >= CpuIsa::kAvx512) return {decode::avx512(type), QueryForm::kF32};
  if (isa >= CpuIsa::kAvx2) return {decode::avx2(type), QueryForm::kF32};
#endif
  return {decode::portable(type), QueryForm::kF32};
}

DecodePlan::DecodePlan(const KvLayout& layout, std::span<const DecodeSequence> sequences,
                       int64_t query_heads, bool bf16, double scale, int64_t threads, CpuIsa isa)
    : layout_(layout),
      group_(layout.kv_heads > 0 ? query_heads / layout.kv_heads : 0),
      threads_(threads),
      scale_(static_cast<float>(scale)),
      kernel_(decode_kernel(isa, layout.type, bf16)) {
  const int64_t K = layout.kv_heads;
  check(K > 0 && query_heads % K == 0,
        "decode_attention: {} query heads, expected a multiple of the {} key/value heads",
        query_heads, K);
  int64_t whole = 0;
  for (const DecodeSequence& s : sequences) {
    check(s.rows >= 0 && s.rows <= s.length,
          "decode_attention: {} rows of a sequence of {} positions", s.rows, s.length);
    check(kv_pages(s.length) <= static_cast<int64_t>(s.pages.size()),
          "decode_attention: {} positions in {} pages of {}", s.length, s.pages.size(),
          kPagePositions);
    if (s.rows == 0) continue;
    sequences_.push_back(&s);
    first_span_.push_back(spans_.size());
    for (int64_t begin = 0; begin < s.length; begin += kSpanPositions)
      spans_.push_back({begin, std::min(s.length, begin + kSpanPositions), 0, K});
    whole += s.length / kSpanPositions;
  }
  first_span_.push_back(spans_.size());
  // As many whole spans as the threads share evenly, then the rest in pieces for all threads.
  whole -= whole % threads;
  const int64_t piece = (K + threads - 1) / threads;
  for (const bool pieces : {false, true}) {
    int64_t seen = 0;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      for (Span& span :
           std::span(spans_).subspan(first_span_[i], first_span_[i + 1] - first_span_[i])) {
        const bool full = span.end - span.begin == kSpanPositions;
        if (pieces == (full && seen++ < whole)) continue;
        add_parts(*sequences_[i], span, pieces ? piece : K);
      }
    }
  }
  queries_at_ = floats_;
  floats_ += threads * queries_floats_;
}

void DecodePlan::add_parts(const DecodeSequence& sequence, Span& span, int64_t head_run) {
  const int64_t K = layout_.kv_heads, W = layout_.width(), rows = sequence.rows * group_;
  span.first = parts();
  span.head_run = head_run;
  for (int64_t head = 0; head < K; head += head_run) {
    const int64_t heads = std::min(head_run, K - head);
    parts_.push_back({&sequence, head, heads, span.begin, span.end, rows, floats_});
    floats_ += in_lines(heads * rows * (W + 2));
    queries_floats_ = std::max(queries_floats_, in_lines(heads * rows * (W + 2)));
  }
}

/// [heads, rows, W] as the kernel takes them, for codes [heads, rows] scales and offsets.
template <typename T>
void DecodePlan::put_queries(const T* q, int64_t q_row, const Part& part, float* to) const {
  const int64_t N = layout_.head_dim, W = layout_.width(), rows = part.heads * part.rows;
  const DecodeSequence& s = *part.sequence;
  const int64_t bytes = kernel_.form == QueryForm::kF32 ? 4 : 2;
  float* const scales = to + rows * W;
  auto* const offsets = reinterpret_cast<int32_t*>(scales + rows);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t head = part.head + i / part.rows, r = i % part.rows;
    query_row(q + (s.row + r / group_) * q_row + (head * group_ + r % group_) * N, N, W,
              kernel_.form, reinterpret_cast<uint8_t*>(to) + i * W * bytes, scales + i,
              offsets + i);
  }
}

const uint8_t* DecodePlan::first_keys(const Part& part, int64_t layer) const {
  return part.sequence->pages[static_cast<size_t>(part.begin / kPagePositions)] +
         layout_.keys_at(layer, part.head);
}

void DecodePlan::run(const Part& part, const Part* then, int64_t layer, const float* queries,
                     float* workspace) const {
  const int64_t W = layout_.width();
  DecodeTask task;
  task.q = reinterpret_cast<const uint8_t*>(queries);
  if (kernel_.form == QueryForm::kCodes) {
    task.q_scale = queries + part.heads * part.rows * W;
    task.q_offset = reinterpret_cast<const int32_t*>(task.q_scale + part.heads * part.rows);
  }
  task.pages = part.sequence->pages.data();
  task.head_at = layout_.keys_at(layer, part.head);
  task.head_bytes = layout_.head_bytes();
  task.values_at = layout_.values_at(layer, part.head) - task.head_at;
  task.key_scales_at = layout_.key_scales_at(layer, part.head) - task.head_at;
  task.value_scales_at = layout_.value_scales_at(layer, part.head) - task.head_at;
  if (then != nullptr) task.next = first_keys(*then, layer);
  task.begin = part.begin;
  task.end = part.end;
  task.heads = part.heads;
  task.rows = part.rows;
  task.group = group_;
  task.width = W;
  task.visible = part.sequence->length - part.sequence->rows + 1;
  task.scale = scale_;
  task.out = workspace + part.at;
  kernel_.run(task);
}

template <typename T>
void DecodePlan::work(std::atomic<int64_t>& taken, int64_t rank, int64_t layer, const T* q,
                      int64_t q_row, float* workspace) const {
  float* const queries = workspace + queries_at_ + rank * queries_floats_;
  const auto part_at = [&](int64_t i) {
    return i < parts() ? &parts_[static_cast<size_t>(i)] : nullptr;
  };
  const auto take = [&] { return taken.fetch_add(1, std::memory_order_relaxed); };
  const Part* before = nullptr;
  int64_t at = take();
  if (part_at(at) != nullptr) fetch_first(first_keys(*part_at(at), layer));
  while (const Part* const part = part_at(at)) {
    // The next is taken early, so that it can be fetched ahead; not the last ones, for which
    // another thread may be free sooner.
    const bool early = parts() - at > threads_;
    const int64_t then = early ? take() : taken.load(std::memory_order_relaxed);
    if (before == nullptr || before->sequence != part->sequence || before->head != part->head ||
        before->heads != part->heads)
      put_queries(q, q_row, *part, queries);
    run(*part, part_at(then), layer, queries, workspace);
    before = part;
    at = early ? then : take();
  }
}

namespace {

/// sum = share · x for the first, sum += share · x for others.
EM_CPU_CLONES void add_share(float share, const float* x, int64_t n, float* sum, bool first) {
  const float keep = first ? 0.0F : 1.0F;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] = keep * sum[i] + share * x[i];
}

template <typename T>
[[gnu::always_inline]] inline void put_scaled(const float* sum, float factor, int64_t n, T* to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) put_rounded(to, i, sum[i] * factor);
}
EM_CPU_CLONES void store_scaled(const float* sum, float factor, int64_t n, float* to) {
  put_scaled(sum, factor, n, to);
}
EM_CPU_CLONES void store_scaled(const float* sum, float factor, int64_t n, c10::BFloat16* to) {
  put_scaled(sum, factor, n, to);
}
EM_CPU_CLONES void store_scaled(const float* sum, float factor, int64_t n, c10::Half* to) {
  put_scaled(sum, factor, n, to);
}

}  // namespace

template <typename T>
void DecodePlan::join(int64_t first, int64_t last, float* workspace, T* out,
                      int64_t out_row) const {
  const int64_t N = layout_.head_dim, W = layout_.width(), K = layout_.kv_heads;
  for (int64_t j = first; j < last; ++j) {
    const auto sequence = static_cast<size_t>(j / K);
    const int64_t head = j % K;
    const DecodeSequence& s = *sequences_[sequence];
    const int64_t rows = s.rows * group_;
    const auto spans = std::span(spans_).subspan(first_span_[sequence],
                                                 first_span_[sequence + 1] - first_span_[sequence]);
    const auto result = [&](const Span& span) {
      const Part& part = parts_[static_cast<size_t>(span.first + head / span.head_run)];
      return workspace + part.at + head % span.head_run * rows * (W + 2);
    };
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t visible = s.length - s.rows + 1 + r / group_;
      float largest = -std::numeric_limits<float>::infinity(), total = 0.0F;
      for (const Span& span : spans) largest = std::max(largest, result(span)[rows * W + r]);
      float* const sum_N = result(spans[0]) + r * W;  // the others are added to the first
      for (const Span& span : spans) {
        if (span.begin >= visible) break;
        const float* const from = result(span);
        const float share = std::exp(from[rows * W + r] - largest);
        total += share * from[rows * (W + 1) + r];
        add_share(share, from + r * W, N, sum_N, /*first=*/span.begin == 0);
      }
      store_scaled(sum_N, 1.0F / total, N,
                   out + (s.row + r / group_) * out_row + (head * group_ + r % group_) * N);
    }
  }
}

#define EM_DECODE_PLAN(T)                                                                    \
  template void DecodePlan::work(std::atomic<int64_t>&, int64_t, int64_t, const T*, int64_t, \
                                 float*) const;                                              \
  template void DecodePlan::join(int64_t, int64_t, float*, T*, int64_t) const;
EM_DECODE_PLAN(float)
EM_DECODE_PLAN(c10::BFloat16)
EM_DECODE_PLAN(c10::Half)
#undef EM_DECODE_PLAN

}  // namespace euromodal
