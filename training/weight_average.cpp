// weight_average.cpp — see weight_average.h.
#include "training/weight_average.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

namespace euromodal {
namespace {

constexpr int64_t kGrain = 65536;  // numbers per task

}  // namespace

WeightAverage::WeightAverage(const FlatBuffer& buffer, double decay)
    : rate_(static_cast<float>(1.0 - decay)) {
  for (const FlatBucket& bucket : buffer.buckets())
    owned_.push_back(bucket.master.detach().clone());
}

void WeightAverage::update(const FlatBuffer& buffer, const at::Tensor& apply) {
  const float rate = rate_;
  const at::NoGradGuard no_grad;
  if (buffer.on_cuda()) {
    const at::Tensor rate_1 = apply.to(at::kFloat) * rate;
    for (size_t b = 0; b < owned_.size(); ++b) owned_[b].lerp_(buffer.buckets()[b].master, rate_1);
    return;
  }
  if (*apply.const_data_ptr<int32_t>() == 0) return;
  for (size_t b = 0; b < owned_.size(); ++b) {
    const float* value = buffer.buckets()[b].master.const_data_ptr<float>();
    float* average = owned_[b].mutable_data_ptr<float>();
    at::parallel_for(0, owned_[b].numel(), kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) average[i] += rate * (value[i] - average[i]);
    });
  }
}

std::vector<OwnedTensor> WeightAverage::tensors(const FlatBuffer& buffer) const {
  std::vector<OwnedTensor> out;
  for (size_t s = 0; s < buffer.slots().size(); ++s) {
    const FlatSlot& slot = buffer.slots()[s];
    out.push_back({slot.name, static_cast<int64_t>(s), owned_[static_cast<size_t>(slot.bucket)]});
  }
  return out;
}

void WeightAverage::swap(FlatBuffer& buffer, Collectives& world) {
  const at::NoGradGuard no_grad;
  for (size_t b = 0; b < owned_.size(); ++b) {
    const at::Tensor master = buffer.buckets()[b].master, kept = master.clone();
    master.copy_(owned_[b]);
    owned_[b].copy_(kept);
  }
  buffer.publish(world);
}

}  // namespace euromodal
