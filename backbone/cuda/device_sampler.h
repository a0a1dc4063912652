// device_sampler.h — the rules by which each slot of a decoder draws its tokens, and what they look
// back on, in the device's memory: parameters, how often each id was seen, numbers of the next
// draws. Nothing waits for the device. S slots, V vocabulary.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <cuda_runtime_api.h>

#include "backbone/kernels/sample_token/sample_params.h"

namespace euromodal {

class DeviceSampler {
 public:
  DeviceSampler(int64_t slots, int64_t vocabulary, at::Device device);

  /// The most likely token from now on.
  void clear(int64_t slot);
  /// These rules from now on, draw number 0 next. `prompt`: ids that the repetition penalty counts
  /// as seen; those outside the vocabulary (media) count for nothing.
  void set(int64_t slot, const SampleParams& rules, const std::vector<int64_t>& prompt);
  /// Does one of the first `count` slots ask for more than the most likely token?
  bool wanted(int64_t count) const;
  bool set(int64_t slot) const { return set_.at(static_cast<size_t>(slot)); }
  /// Draws for the first `count` rows of logits_SV (f32) that active_S (i32) marks into token_S
  /// (i64). Error as sample_token() when the launch fails.
  void draw(int64_t count, const at::Tensor& logits_SV, const at::Tensor& active_S,
            const at::Tensor& token_S, cudaStream_t stream);
  /// [S] f32: log-probability of the last tokens by the logits as they came; NaN where a logit is
  /// NaN or +inf.
  const at::Tensor& logprob_S() const { return logprob_S_; }

 private:
  int64_t vocabulary_;
  std::vector<bool> set_;
  at::Tensor params_SP_;  // SampleParams as i64 words
  at::Tensor counts_SV_;  // i32; undefined until a slot asks for penalties
  at::Tensor step_S_, logprob_S_, workspace_;
};

}  // namespace euromodal
