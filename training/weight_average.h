// weight_average.h — the exponential moving average of what is trained (Polyak and Juditsky 1992):
// after every update  average += (1 - decay) · (value - average), in fp32. It starts at the
// starting values. A rank keeps it for the numbers that it updates (flat_buffer.h).
#pragma once
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/flat_buffer.h"

namespace euromodal {

class WeightAverage {
 public:
  /// 0 < decay < 1.
  WeightAverage(const FlatBuffer& buffer, double decay);
  /// After an update of `buffer` that `apply` (i32 [1] where it lies) allowed or not: 0 changes
  /// nothing.
  void update(const FlatBuffer& buffer, const at::Tensor& apply);
  /// The average by parameter name.
  std::vector<OwnedTensor> tensors(const FlatBuffer& buffer) const;
  /// The model's parameters and the average change places; the second call puts them back, bit for
  /// bit. Every rank calls it.
  void swap(FlatBuffer& buffer, Collectives& world);

 private:
  float rate_;                     // 1 - decay
  std::vector<at::Tensor> owned_;  // by bucket, as its master values
};

}  // namespace euromodal
