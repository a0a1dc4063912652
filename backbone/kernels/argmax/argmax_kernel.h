// argmax_kernel.h — the most likely token of each row of logits, drawn on the device. B rows, V
// vocabulary.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

namespace euromodal {

struct ArgmaxArgs {
  const float* logits_BV = nullptr;
  int64_t* token_B = nullptr;         // the lowest id of equals
  const int32_t* active_B = nullptr;  // or null; rows with 0 are left alone
  int64_t B = 0, V = 0;
};

/// cudaErrorInvalidValue for V < 1. A NaN counts as the largest, as in at::argmax.
cudaError_t argmax(const ArgmaxArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
