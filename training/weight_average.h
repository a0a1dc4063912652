// weight_average.h — the exponential moving average of what is trained (Polyak and Juditsky 1992):
// after every update  average += (1 - decay) · (value - average), in fp32. It starts at the
// starting values. N numbers, laid out as in the flat buffer.
#pragma once
#include <ATen/core/Tensor.h>

#include "training/flat_buffer.h"

namespace euromodal {

class WeightAverage {
 public:
  /// 0 < decay < 1.
  WeightAverage(const FlatBuffer& buffer, double decay);
  /// After an update of `buffer`.
  void update(const FlatBuffer& buffer);
  /// A view of one parameter's average, in its shape.
  at::Tensor value_of(const FlatSlot& slot) const;

  /// While it lives, the model's parameters hold the average; then their values come back.
  class InPlace {
   public:
    InPlace(FlatBuffer& buffer, const WeightAverage& average);
    ~InPlace();
    InPlace(const InPlace&) = delete;
    InPlace& operator=(const InPlace&) = delete;

   private:
    FlatBuffer& buffer_;
    at::Tensor kept_N_;
  };

 private:
  float rate_;            // 1 - decay
  at::Tensor average_N_;  // [N] f32
};

}  // namespace euromodal
