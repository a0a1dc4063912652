// sample_token_kernel.h — launcher that draws the next token of each row of logits on the device,
// by the rules of inference/sampling.h. Raw pointers, no torch. B rows, V vocabulary.
#pragma once
#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "backbone/kernels/sample_token/sample_params.h"

namespace euromodal {

/// In counts: set in the number of an id that the prompt holds; the bits below count how often the
/// id was drawn. The repetition penalty looks at both, presence and frequency at the drawn ones.
constexpr int32_t kSampleInPrompt = 1 << 30;

struct SampleTokenArgs {
  const float* logits_BV = nullptr;  // left as they are
  const SampleParams* params_B = nullptr;
  int32_t* counts_BV = nullptr;  // or null: no penalties. The drawn token is counted.
  int64_t* step_B = nullptr;     // draws of this row so far: number of this draw; raised by one
  int64_t* token_B = nullptr;
  float* logprob_B = nullptr;         // or null: log softmax of the untouched logits at the token
  const int32_t* active_B = nullptr;  // or null; rows with 0 are left alone
  int64_t B = 0, V = 0;
  void* workspace = nullptr;  // sample_token_workspace() bytes, 16-byte aligned
  bool dependent = false;     // programmatic dependent launch
};

/// Bytes; 0 where a row's share of each block fits into shared memory (on Hopper V up to 190 000).
size_t sample_token_workspace(int64_t B, int64_t V) noexcept;

/// In this order: repetition penalty, presence and frequency, temperature, top-k, top-p, min-p, one
/// draw with Rng(seed).fork("sample", step). The rules are the exact ones, ties included; sums are
/// in double and exponentials those of the C library, so that the token is the host's but where the
/// drawn number falls within 1e-15 of a boundary. The same bits on every run. A row without a
/// finite logit gives token 0. cudaErrorInvalidValue for V < 1 or above 2^30, B above 65535.
cudaError_t sample_token(const SampleTokenArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
