// distillation_kernel.cu — row pass of linear_distillation on CUDA. Reference:
// distillation_ref.cpp. One block a row; maxima, sums of exponentials and the cross term are kept
// together while both rows are read once. Where a gradient is wanted they are needed again: as much
// as fits waits in shared memory, the rest comes out of L2.
#include <cfloat>

#include "backbone/kernels/cuda/logit_rows.h"
#include "backbone/kernels/distillation/distillation_kernel.h"

namespace euromodal {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kBatch = 2;  // pairs of 16-byte loads of a thread under way at once

// Of logits over temperature, z the student's, y the teacher's.
struct PairSums {
  float highest_z = -FLT_MAX, highest_y = -FLT_MAX;
  float sum_z = 0.0F, sum_y = 0.0F;  // of exp(z - highest), exp(y - highest)
  float cross = 0.0F;                // of exp(y - highest) (y - z)
};

template <int kCount>
EM_DEVICE void take(PairSums& s, const float (&z)[kCount], const float (&y)[kCount]) {
  float highest_z = s.highest_z, highest_y = s.highest_y;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    highest_z = fmaxf(highest_z, z[i]);
    highest_y = fmaxf(highest_y, y[i]);
  }
  const float shift_y = exp_low(s.highest_y - highest_y);
  s.sum_z *= exp_low(s.highest_z - highest_z);
  s.sum_y *= shift_y;
  s.cross *= shift_y;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float p = exp_low(y[i] - highest_y);
    s.sum_z += exp_low(z[i] - highest_z);
    s.sum_y += p;
    s.cross += p * (y[i] - z[i]);
  }
  s.highest_z = highest_z;
  s.highest_y = highest_y;
}

template <typename T>
EM_DEVICE void widen_scaled(const Vec16<T>& v, float scale, float (&x)[Vec16<T>::kCount]) {
  widen(v, x);
#pragma unroll
  for (int i = 0; i < Vec16<T>::kCount; ++i) x[i] *= scale;
}

template <typename T>
struct PairKernelArgs {
  T* student_RV;
  const T* teacher_RV;
  const float* row_weight_R;
  float* loss_R;
  int64_t vocab;
  int64_t kept;  // vectors of each row that shared memory holds
  float inverse_temperature;
};

template <typename T, bool kGradient>
__global__ void __launch_bounds__(kMaxThreads) pair_kernel(PairKernelArgs<T> a) {
  constexpr int kCount = Vec16<T>::kCount;
  EM_DYNAMIC_SHARED(Vec16<T>, kept_z);  // then as many of y
  __shared__ float scratch[kMaxThreads / 32];
  const int64_t row = blockIdx.x;
  T* z = a.student_RV + row * a.vocab;
  const T* y = a.teacher_RV + row * a.vocab;
  const float weight = a.row_weight_R != nullptr ? a.row_weight_R[row] : 1.0F;
  const float cool = a.inverse_temperature;
  const RowParts parts = parts_of(z, a.vocab);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const bool in_head = thread < parts.head, in_tail = parts.tail_begin + thread < a.vocab;

  PairSums mine;
  const auto take_one = [&](int64_t v) {
    take<1>(mine, {to_float(z[v]) * cool}, {to_float(y[v]) * cool});
  };
  if (in_head) take_one(thread);
  if (in_tail) take_one(parts.tail_begin + thread);
  T* body_z = z + parts.head;
  const T* body_y = y + parts.head;
  for (int64_t first = thread; first < parts.vectors; first += kBatch * threads) {
    Vec16<T> vz[kBatch], vy[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int64_t i = first + b * threads;
      if (i >= parts.vectors) continue;
      vz[b] = load16(body_z + i * kCount);
      vy[b] = load16(body_y + i * kCount);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int64_t i = first + b * threads;
      if (i >= parts.vectors) continue;
      if (kGradient && i < a.kept) {
        kept_z[i] = vz[b];
        kept_z[a.kept + i] = vy[b];
      }
      float xz[kCount], xy[kCount];
      widen_scaled(vz[b], cool, xz);
      widen_scaled(vy[b], cool, xy);
      take<kCount>(mine, xz, xy);
    }
  }

  const float highest_z = block_max(mine.highest_z, scratch),
              highest_y = block_max(mine.highest_y, scratch);
  const float shift_y = exp_low(mine.highest_y - highest_y);
  const float sum_z = block_sum(mine.sum_z * exp_low(mine.highest_z - highest_z), scratch),
              sum_y = block_sum(mine.sum_y * shift_y, scratch),
              cross = block_sum(mine.cross * shift_y, scratch);
  if (thread == 0)
    a.loss_R[row] =
        weight * (cross / sum_y + (highest_z - highest_y) + (logf(sum_z) - logf(sum_y)));

  if constexpr (kGradient) {
    const float scale_z = weight * cool / sum_z, scale_y = weight * cool / sum_y;
    const auto gradient = [&](float student, float teacher) {
      return from_float<T>(exp_low(student * cool - highest_z) * scale_z -
                           exp_low(teacher * cool - highest_y) * scale_y);
    };
    if (in_head) z[thread] = gradient(to_float(z[thread]), to_float(y[thread]));
    if (in_tail) {
      const int64_t v = parts.tail_begin + thread;
      z[v] = gradient(to_float(z[v]), to_float(y[v]));
    }
    for (int64_t i = thread; i < parts.vectors; i += threads) {
      // Each thread reads what it stored itself: no barrier needed.
      Vec16<T> vz = i < a.kept ? kept_z[i] : load16(body_z + i * kCount);
      const Vec16<T> vy = i < a.kept ? kept_z[a.kept + i] : load16(body_y + i * kCount);
#pragma unroll
      for (int e = 0; e < kCount; ++e) vz.v[e] = gradient(to_float(vz.v[e]), to_float(vy.v[e]));
      store16(body_z + i * kCount, vz);
    }
  }
}

template <typename T, bool kGradient>
cudaError_t pair_as(const DistillationRowsArgs& args, cudaStream_t stream) {
  constexpr int64_t kVector = Vec16<T>::kCount;
  PairKernelArgs<T> a{static_cast<T*>(args.student_RV),
                      static_cast<const T*>(args.teacher_RV),
                      args.row_weight_R,
                      args.loss_R,
                      args.vocab,
                      0,
                      args.inverse_temperature};
  const int64_t vectors = args.vocab / kVector;
  int64_t threads = kMaxThreads;
  while (threads > 32 && threads / 2 >= vectors) threads /= 2;
  size_t shared = 0;
  if (kGradient) {
    constexpr size_t kReserved = 2048;  // of the block's limit: scratch, and what the system takes
    const size_t limit = shared_memory_limit() - kReserved;
    const auto most = static_cast<int64_t>(limit / 32);
    a.kept = vectors < most ? vectors : most;
    shared = static_cast<size_t>(a.kept) * 32;
    const cudaError_t error =
        cudaFuncSetAttribute(pair_kernel<T, kGradient>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(limit));
    if (error != cudaSuccess) return error;
  }
  EM_LAUNCH((pair_kernel<T, kGradient>), (static_cast<unsigned>(args.rows)),
            (static_cast<unsigned>(threads)), shared, stream, a);
  return cudaGetLastError();
}

template <typename T>
cudaError_t pair_of(const DistillationRowsArgs& args, cudaStream_t stream) {
  return args.gradient ? pair_as<T, true>(args, stream) : pair_as<T, false>(args, stream);
}

}  // namespace

cudaError_t distillation_rows(const DistillationRowsArgs& args, cudaStream_t stream) noexcept {
  if (args.rows == 0) return cudaSuccess;
  if (args.rows < 0 || args.rows > INT32_MAX || args.vocab < 1 ||
      reinterpret_cast<uintptr_t>(args.student_RV) % 16 !=
          reinterpret_cast<uintptr_t>(args.teacher_RV) % 16)
    return cudaErrorInvalidValue;
  switch (args.type) {
    case DType::kF32:
      return pair_of<float>(args, stream);
    case DType::kBf16:
      return pair_of<Bf16>(args, stream);
    case DType::kF16:
      return pair_of<__half>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace euromodal
