// device_sampler.cpp — see device_sampler.h.
#include "backbone/cuda/device_sampler.h"

#include <algorithm>
#include <array>
#include <bit>

#include <ATen/ATen.h>

#include "backbone/kernels/sample_token/sample_token_kernel.h"
#include "backbone/kernels/to_device.h"
#include "core/error.h"

namespace euromodal {

namespace {

constexpr size_t kWords = sizeof(SampleParams) / sizeof(int64_t);

std::vector<int64_t> words_of(const SampleParams& rules) {
  const auto words = std::bit_cast<std::array<int64_t, kWords>>(rules);
  return {words.begin(), words.end()};
}

}  // namespace

DeviceSampler::DeviceSampler(int64_t slots, int64_t vocabulary, at::Device device)
    : vocabulary_(vocabulary), set_(static_cast<size_t>(slots), false) {
  const auto i64 = at::TensorOptions(device).dtype(at::kLong);
  params_SP_ = to_device(words_of({}), device).repeat({slots, 1});
  step_S_ = at::zeros({slots}, i64);
  logprob_S_ = at::zeros({slots}, i64.dtype(at::kFloat));
  const auto bytes = static_cast<int64_t>(sample_token_workspace(slots, vocabulary));
  workspace_ = at::empty({bytes}, i64.dtype(at::kByte));
}

void DeviceSampler::clear(int64_t slot) {
  if (!set(slot)) return;
  params_SP_.select(0, slot).copy_(to_device(words_of({}), params_SP_.device()));
  set_[static_cast<size_t>(slot)] = false;
}

void DeviceSampler::set(int64_t slot, const SampleParams& rules,
                        const std::vector<int64_t>& prompt) {
  params_SP_.select(0, slot).copy_(to_device(words_of(rules), params_SP_.device()));
  step_S_.select(0, slot).zero_();
  set_.at(static_cast<size_t>(slot)) = true;
  if (!rules.penalizes()) return;
  if (!counts_SV_.defined())
    counts_SV_ = at::zeros({params_SP_.size(0), vocabulary_}, step_S_.options().dtype(at::kInt));
  const at::Tensor counts_V = counts_SV_.select(0, slot);
  counts_V.zero_();
  std::vector<int64_t> ids;
  std::copy_if(prompt.begin(), prompt.end(), std::back_inserter(ids),
               [&](int64_t id) { return id >= 0 && id < vocabulary_; });
  if (!ids.empty())
    counts_V.index_fill_(0, to_device(ids, counts_V.device()), at::Scalar(kSampleInPrompt));
}

bool DeviceSampler::wanted(int64_t count) const {
  return std::find(set_.begin(), set_.begin() + count, true) != set_.begin() + count;
}

void DeviceSampler::draw(int64_t count, const at::Tensor& logits_SV, const at::Tensor& active_S,
                         const at::Tensor& token_S, cudaStream_t stream) {
  SampleTokenArgs args;
  args.logits_BV = logits_SV.const_data_ptr<float>();
  args.params_B = static_cast<const SampleParams*>(params_SP_.const_data_ptr());
  if (counts_SV_.defined()) args.counts_BV = counts_SV_.mutable_data_ptr<int32_t>();
  args.step_B = step_S_.mutable_data_ptr<int64_t>();
  args.token_B = token_S.mutable_data_ptr<int64_t>();
  args.logprob_B = logprob_S_.mutable_data_ptr<float>();
  args.active_B = active_S.const_data_ptr<int32_t>();
  args.B = count;
  args.V = vocabulary_;
  args.workspace = workspace_.mutable_data_ptr();
  const cudaError_t error = sample_token(args, stream);
  check(error == cudaSuccess, "sample_token of {} rows of {} logits: CUDA error {}", count,
        vocabulary_, static_cast<int>(error));
}

}  // namespace euromodal
