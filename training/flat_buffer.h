// flat_buffer.h — all trainable parameters as one row of numbers: fp32 master values and fp32
// gradients, each in one buffer, so that a step has one all-reduce, one norm and one update loop.
// f32 parameters are views of the master; parameters of other dtypes are views of a buffer of that
// dtype that is refilled from the master after each update. N numbers in all.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/weights/weights.h"

namespace euromodal {

/// Where a parameter lies: [offset, offset + count) of the N numbers.
struct FlatSlot {
  std::string name;
  at::Tensor parameter;
  std::vector<int64_t> shape;
  int64_t group = 0;
  int64_t offset = 0, count = 0;
};

class FlatBuffer {
 public:
  /// Takes over `trainable` (their values are kept, their storage becomes a part of the buffer) and
  /// makes them require gradients. `group_of[i]`: group of tensor i; groups lie one after the
  /// other, inside a group equal shapes lie next to each other. `aliases` are further handles on
  /// one of the parameters (same name, same shape) whose gradients are summed apart and added at
  /// the end (add_aliases): a weight used in two places then gets its gradient in an order that
  /// does not depend on how samples were packed. `tail` numbers behind the gradients travel with
  /// them.
  FlatBuffer(const std::vector<NamedTensor>& trainable, const std::vector<int64_t>& group_of,
             const std::vector<NamedTensor>& aliases, int64_t tail);
  FlatBuffer(const FlatBuffer&) = delete;
  FlatBuffer& operator=(const FlatBuffer&) = delete;

  const std::vector<FlatSlot>& slots() const { return slots_; }
  int64_t size() const { return size_; }                   // N
  int64_t gradient_size() const { return grad_.numel(); }  // N + aliases + tail
  float* master() const { return master_.mutable_data_ptr<float>(); }
  const at::Tensor& master_N() const { return master_; }
  float* gradient() const { return grad_.mutable_data_ptr<float>(); }
  /// The `tail` numbers at the end of the gradient buffer.
  std::span<float> tail() const;

  void zero_gradient();
  /// After each backward(): gradients of parameters that are not f32 are added to the fp32 buffer.
  void gather_gradient();
  /// After the reduction: gradients of aliases are added to those of their parameters.
  void add_aliases();
  /// After an update: parameters that are not f32 take the rounded master values.
  void publish();
  /// The master values of a slot, in its shape.
  at::Tensor master_of(const FlatSlot& slot) const;

 private:
  struct LowSlot {
    at::Tensor parameter, low_grad;
    int64_t offset = 0, gradient_offset = 0, count = 0;
  };
  struct AliasSlot {
    int64_t offset = 0, gradient_offset = 0, count = 0;
  };
  void bind(const at::Tensor& handle, const FlatSlot& slot, int64_t gradient_offset);

  std::vector<FlatSlot> slots_;
  std::vector<LowSlot> low_;
  std::vector<AliasSlot> aliases_;
  int64_t size_ = 0, tail_ = 0;
  at::Tensor master_, grad_;  // [N] f32, [N + aliases + tail] f32
};

}  // namespace euromodal
