// sample_params.h — how the token behind a row of logits is drawn: the rules that
// sample_token_kernel.h knows. No CUDA header.
#pragma once
#include <cstdint>

namespace euromodal {

/// The rules of one row, as GenerateOptions has them.
struct SampleParams {
  double temperature = 0.0;  // 0: the most likely token, the lowest id of equals
  int64_t top_k = 0;         // 0: off
  double top_p = 1.0, min_p = 0.0;
  double repetition = 1.0, presence = 0.0, frequency = 0.0;  // penalties; need counts
  uint64_t seed = 0;

  bool penalizes() const { return repetition != 1.0 || presence != 0.0 || frequency != 0.0; }
};

}  // namespace euromodal
