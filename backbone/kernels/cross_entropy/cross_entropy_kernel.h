// cross_entropy_kernel.h — launcher of the row pass of linear_cross_entropy on CUDA: from a chunk
// of logits to losses and, in place, their gradient. Raw pointers, no torch. R rows, V vocabulary.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

struct CrossEntropyRowsArgs {
  void* logits_RV;            // f32, bf16 or f16, dense; becomes its own gradient where `gradient`
  const int64_t* labels_R;    // in [0, V); another one makes the loss of its row NaN
  const float* row_weight_R;  // null: all 1
  float* loss_R;
  int64_t rows, vocab;
  float smoothing, z_loss;
  bool gradient;
  DType type;
};

/// loss = w · (lse(Z) - (1 - e) Z[label] - e mean(Z) + z lse(Z)²) and dZ = w · ((1 + 2 z lse(Z))
/// softmax(Z) - (1 - e) onehot - e / V), computed in f32. Sums in a fixed order: the same bits on
/// every run.
cudaError_t cross_entropy_rows(const CrossEntropyRowsArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
