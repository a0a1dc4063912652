// cross_entropy_kernel.cu — row pass of linear_cross_entropy on CUDA. Reference:
// cross_entropy_ref.cpp. One block a row; maximum and sum of exponentials are kept together while
// the row is read once (Milakov and Gimelshein 2018, arXiv:1805.02867).
//
// Bound by memory. Where a gradient is wanted the row is needed again: most of it waits in shared
// memory (a row of 128 000 bf16 is 256 KB, a multiprocessor has 227), the rest comes out of L2.
#include <cfloat>
#include <cmath>

#include "backbone/kernels/cross_entropy/cross_entropy_kernel.h"
#include "backbone/kernels/cuda/logit_rows.h"

namespace euromodal {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kBatch = 4;  // 16-byte loads of a thread under way at once
// Largest logit, sum of exp(logit - largest), sum of logits.
struct RowSums {
  float highest = -FLT_MAX, sum = 0.0F, total = 0.0F;
};

template <int kCount, bool kSmooth>
EM_DEVICE void take(RowSums& s, const float (&x)[kCount]) {
  float highest = s.highest;
#pragma unroll
  for (int i = 0; i < kCount; ++i) highest = fmaxf(highest, x[i]);
  float sum = s.sum * exp_low(s.highest - highest);
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum += exp_low(x[i] - highest);
  if constexpr (kSmooth) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) s.total += x[i];
  }
  s.highest = highest;
  s.sum = sum;
}

// A row that is needed again stays in L2.
template <typename T, bool kAgain>
EM_DEVICE Vec16<T> load_row(const T* p) {
  if constexpr (kAgain) return load16(p);
  const uint4 bits = load16_streaming(p);
  Vec16<T> v;
  std::memcpy(&v, &bits, 16);
  return v;
}

template <typename T>
struct RowsKernelArgs {
  T* logits_RV;
  const int64_t* labels_R;
  const float* row_weight_R;
  float* loss_R;
  int64_t vocab;
  int64_t kept;  // vectors of a row that shared memory holds
  float smoothing, z_loss;
};

template <typename T, bool kSmooth, bool kGradient>
__global__ void __launch_bounds__(kMaxThreads) rows_kernel(RowsKernelArgs<T> a) {
  constexpr int kCount = Vec16<T>::kCount;
  EM_DYNAMIC_SHARED(Vec16<T>, row_kept);
  __shared__ float scratch[kMaxThreads / 32];
  const int64_t row = blockIdx.x;
  T* z = a.logits_RV + row * a.vocab;
  const int64_t label = a.labels_R[row];
  const bool known = label >= 0 && label < a.vocab;
  const float at_label = known ? to_float(z[label]) : NAN;
  const float weight = a.row_weight_R != nullptr ? a.row_weight_R[row] : 1.0F;
  const RowParts parts = parts_of(z, a.vocab);
  T* body = z + parts.head;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  // At most kCount - 1 scalars on each side of the vectors: one for each of the first threads.
  const bool in_head = thread < parts.head, in_tail = parts.tail_begin + thread < a.vocab;

  RowSums mine;
  float before = 0.0F, behind = 0.0F;
  if (in_head) {
    before = to_float(z[thread]);
    take<1, kSmooth>(mine, {before});
  }
  if (in_tail) {
    behind = to_float(z[parts.tail_begin + thread]);
    take<1, kSmooth>(mine, {behind});
  }
  for (int64_t first = thread; first < parts.vectors; first += kBatch * threads) {
    Vec16<T> v[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int64_t i = first + b * threads;
      if (i < parts.vectors) v[b] = load_row<T, kGradient>(body + i * kCount);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int64_t i = first + b * threads;
      if (i >= parts.vectors) continue;
      if (kGradient && i < a.kept) row_kept[i] = v[b];
      float x[kCount];
      widen(v[b], x);
      take<kCount, kSmooth>(mine, x);
    }
  }

  const float highest = block_max(mine.highest, scratch);
  const float sum = block_sum(mine.sum * exp_low(mine.highest - highest), scratch);
  const float lse = highest + logf(sum);
  if constexpr (kSmooth) mine.total = block_sum(mine.total, scratch);
  if (thread == 0) {
    float loss = lse - (1.0F - a.smoothing) * at_label + a.z_loss * lse * lse;
    if constexpr (kSmooth) loss -= a.smoothing * mine.total / static_cast<float>(a.vocab);
    a.loss_R[row] = weight * loss;
  }
  if constexpr (!kGradient) return;

  const float scale = weight * (1.0F + 2.0F * a.z_loss * lse) / sum;
  const float flat = kSmooth ? weight * a.smoothing / static_cast<float>(a.vocab) : 0.0F;
  const float pull = weight * (1.0F - a.smoothing);
  const auto gradient = [&](float x, int64_t v) {
    const float d = exp_low(x - highest) * scale - flat;
    return from_float<T>(v == label ? d - pull : d);
  };
  if (in_head) z[thread] = gradient(before, thread);
  if (in_tail) z[parts.tail_begin + thread] = gradient(behind, parts.tail_begin + thread);
#pragma unroll 4
  for (int64_t i = thread; i < parts.vectors; i += threads) {
    // Each thread reads what it stored itself: no barrier needed.
    Vec16<T> v = i < a.kept ? row_kept[i] : load16(body + i * kCount);
    const int64_t first = parts.head + i * kCount;
#pragma unroll
    for (int e = 0; e < kCount; ++e) v.v[e] = gradient(to_float(v.v[e]), first + e);
    store16(body + i * kCount, v);
  }
}

template <typename T, bool kSmooth, bool kGradient>
cudaError_t rows_as(const CrossEntropyRowsArgs& args, cudaStream_t stream) {
  constexpr int64_t kVector = Vec16<T>::kCount;
  RowsKernelArgs<T> a{static_cast<T*>(args.logits_RV),
                      args.labels_R,
                      args.row_weight_R,
                      args.loss_R,
                      args.vocab,
                      0,
                      args.smoothing,
                      args.z_loss};
  const int64_t vectors = args.vocab / kVector;
  int64_t threads = kGradient ? kMaxThreads : kMaxThreads / 2;
  while (threads > 32 && threads / 2 >= vectors) threads /= 2;
  size_t shared = 0;
  if (kGradient) {
    constexpr size_t kReserved = 2048;  // of the block's limit: scratch, and what the system takes
    const size_t limit = shared_memory_limit() - kReserved;
    a.kept =
        vectors * 16 < static_cast<int64_t>(limit) ? vectors : static_cast<int64_t>(limit / 16);
    shared = static_cast<size_t>(a.kept) * 16;
    const cudaError_t error =
        cudaFuncSetAttribute(rows_kernel<T, kSmooth, kGradient>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(limit));
    if (error != cudaSuccess) return error;
  }
  EM_LAUNCH((rows_kernel<T, kSmooth, kGradient>), (static_cast<unsigned>(args.rows)),
            (static_cast<unsigned>(threads)), shared, stream, a);
  return cudaGetLastError();
}

template <typename T>
cudaError_t rows_of(const CrossEntropyRowsArgs& args, cudaStream_t stream) {
  if (args.smoothing != 0.0F)
    return args.gradient ? rows_as<T, true, true>(args, stream)
                         : rows_as<T, true, false>(args, stream);
  return args.gradient ? rows_as<T, false, true>(args, stream)
                       : rows_as<T, false, false>(args, stream);
}

}  // namespace

cudaError_t cross_entropy_rows(const CrossEntropyRowsArgs& args, cudaStream_t stream) noexcept {
  if (args.rows == 0) return cudaSuccess;
  if (args.rows < 0 || args.rows > INT32_MAX || args.vocab < 1) return cudaErrorInvalidValue;
  switch (args.type) {
    case DType::kF32:
      return rows_of<float>(args, stream);
    case DType::kBf16:
      return rows_of<Bf16>(args, stream);
    case DType::kF16:
      return rows_of<__half>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace euromodal
