// flat_buffer.cpp — see flat_buffer.h.
#include "training/flat_buffer.h"

#include <algorithm>
#include <numeric>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/error.h"

namespace euromodal {

FlatBuffer::FlatBuffer(const std::vector<NamedTensor>& trainable,
                       const std::vector<int64_t>& group_of,
                       const std::vector<NamedTensor>& aliases, int64_t tail)
    : tail_(tail) {
  at::NoGradGuard no_grad;
  std::vector<size_t> order(trainable.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (group_of[a] != group_of[b]) return group_of[a] < group_of[b];
    return trainable[a].tensor.sizes().vec() < trainable[b].tensor.sizes().vec();
  });
  for (const size_t i : order) {
    const at::Tensor& tensor = trainable[i].tensor;
    slots_.push_back(
        {trainable[i].name, tensor, tensor.sizes().vec(), group_of[i], size_, tensor.numel()});
    size_ += tensor.numel();
  }
  int64_t gradient_size = size_;
  std::vector<const FlatSlot*> alias_of;
  for (const auto& alias : aliases) {
    const auto slot = std::find_if(slots_.begin(), slots_.end(),
                                   [&](const FlatSlot& s) { return s.name == alias.name; });
    check(slot != slots_.end() && slot->shape == alias.tensor.sizes().vec(),
          "{}: an alias of no trainable parameter", alias.name);
    alias_of.push_back(&*slot);
    aliases_.push_back({slot->offset, gradient_size, slot->count});
    gradient_size += slot->count;
  }
  master_ = at::empty({size_}, at::kFloat);
  grad_ = at::zeros({gradient_size + tail_}, at::kFloat);
  for (const FlatSlot& slot : slots_) master_of(slot).copy_(slot.parameter);
  for (const FlatSlot& slot : slots_) bind(slot.parameter, slot, slot.offset);
  for (size_t i = 0; i < aliases.size(); ++i)
    bind(aliases[i].tensor, *alias_of[i], aliases_[i].gradient_offset);
}

void FlatBuffer::bind(const at::Tensor& handle, const FlatSlot& slot, int64_t gradient_offset) {
  at::Tensor parameter = handle;
  const at::Tensor gradient = grad_.narrow(0, gradient_offset, slot.count).view(slot.shape);
  if (parameter.scalar_type() == at::kFloat) {
    parameter.set_data(master_of(slot));
    parameter.set_requires_grad(true);
    parameter.mutable_grad() = gradient;
  } else {
    parameter.set_data(master_of(slot).to(parameter.scalar_type()));
    parameter.set_requires_grad(true);
    parameter.mutable_grad() = at::zeros_like(parameter);
    low_.push_back({parameter, parameter.grad(), slot.offset, gradient_offset, slot.count});
  }
}

std::span<float> FlatBuffer::tail() const {
  return {gradient() + gradient_size() - tail_, static_cast<size_t>(tail_)};
}

void FlatBuffer::zero_gradient() {
  grad_.zero_();
  for (LowSlot& low : low_) low.low_grad.zero_();
}

void FlatBuffer::gather_gradient() {
  for (LowSlot& low : low_) {
    grad_.narrow(0, low.gradient_offset, low.count).add_(low.low_grad.view({-1}));
    low.low_grad.zero_();
  }
}

void FlatBuffer::add_aliases() {
  for (const AliasSlot& alias : aliases_)
    grad_.narrow(0, alias.offset, alias.count)
        .add_(grad_.narrow(0, alias.gradient_offset, alias.count));
}

void FlatBuffer::publish() {
  at::NoGradGuard no_grad;
  for (LowSlot& low : low_)
    low.parameter.view({-1}).copy_(master_.narrow(0, low.offset, low.count));
}

at::Tensor FlatBuffer::master_of(const FlatSlot& slot) const {
  return master_.narrow(0, slot.offset, slot.count).view(slot.shape);
}

}  // namespace euromodal
