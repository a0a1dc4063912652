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
    : rate_(static_cast<float>(1.0 - decay)), average_N_(buffer.master_N().detach().clone()) {}

void WeightAverage::update(const FlatBuffer& buffer) {
  const float* value = buffer.master();
  float* average = average_N_.mutable_data_ptr<float>();
  const float rate = rate_;
  at::parallel_for(0, buffer.size(), kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) average[i] += rate * (value[i] - average[i]);
  });
}

at::Tensor WeightAverage::value_of(const FlatSlot& slot) const {
  return average_N_.narrow(0, slot.offset, slot.count).view(slot.shape);
}

WeightAverage::InPlace::InPlace(FlatBuffer& buffer, const WeightAverage& average)
    : buffer_(buffer) {
  const at::NoGradGuard no_grad;
  at::Tensor master_N = buffer.master_N();
  kept_N_ = master_N.clone();
  master_N.copy_(average.average_N_);
  buffer_.publish();
}

WeightAverage::InPlace::~InPlace() {
  const at::NoGradGuard no_grad;
  at::Tensor master_N = buffer_.master_N();
  master_N.copy_(kept_N_);
  buffer_.publish();
}

}  // namespace euromodal
