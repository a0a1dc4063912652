// distillation_kernel.h — launcher of the row pass of linear_distillation on CUDA: from two chunks
// of logits to Kullback-Leibler divergences and, in place of the student's, their gradient. Raw
// pointers, no torch. R rows, V vocabulary.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

struct DistillationRowsArgs {
  void* student_RV;           // f32, bf16 or f16, dense; becomes its own gradient where `gradient`
  const void* teacher_RV;     // the same dtype
  const float* row_weight_R;  // null: all 1
  float* loss_R;
  int64_t rows, vocab;
  float inverse_temperature;
  bool gradient;
  DType type;
};

/// With p = softmax(teacher / T), q = softmax(student / T): loss = w · sum p (log p - log q), and
/// dstudent = w / T · (q - p), computed in f32. Sums in a fixed order: the same bits on every run.
/// cudaErrorInvalidValue: another dtype, vocab below 1, or student and teacher that start at
/// different places within 16 bytes.
cudaError_t distillation_rows(const DistillationRowsArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
