// flat_buffer.cpp — see flat_buffer.h.
#include "training/flat_buffer.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "training/bucket_plan.h"

namespace euromodal {

namespace {

void flat_bind(const at::Tensor& handle, const FlatBucket& bucket, const FlatSlot& slot) {
  at::Tensor parameter = handle;
  parameter.set_data(bucket.values.narrow(0, slot.offset, slot.count).view(slot.shape));
  parameter.set_requires_grad(true);
  parameter.mutable_grad().reset();
}

}  // namespace

FlatBuffer::FlatBuffer(const std::vector<NamedTensor>& trainable,
                       const std::vector<int64_t>& group_of,
                       const std::vector<GroupOptions>& groups,
                       const std::vector<NamedTensor>& aliases, const FlatOptions& options)
    : options_(options) {
  at::NoGradGuard no_grad;
  std::vector<PlannedParameter> planned;
  for (size_t i = 0; i < trainable.size(); ++i) {
    const at::Tensor& tensor = trainable[i].tensor;
    slots_.push_back({.name = trainable[i].name,
                      .parameter = tensor,
                      .shape = tensor.sizes().vec(),
                      .group = group_of[i],
                      .count = tensor.numel()});
    planned.push_back(
        {.shape = slots_.back().shape, .dtype = tensor.scalar_type(), .group = group_of[i]});
    size_ += tensor.numel();
  }
  for (const NamedTensor& alias : aliases) {
    const auto slot = std::find_if(slots_.begin(), slots_.end(),
                                   [&](const FlatSlot& s) { return s.name == alias.name; });
    check(slot != slots_.end() && alias.tensor.sizes() == at::IntArrayRef(slot->shape),
          "{}: an alias of no trainable parameter", alias.name);
    aliases_.push_back({slot - slots_.begin(), alias.tensor});
    planned[static_cast<size_t>(aliases_.back().slot)].alone = true;
  }
  BucketOptions bucket_options{.numbers = std::max<int64_t>(options.bucket_bytes / 4, 1),
                               .matrices = {},
                               .ranks = options.ranks};
  for (const GroupOptions& group : groups)
    bucket_options.matrices.push_back(group.type == GroupOptions::Type::kMuon);
  for (BucketPlan& plan : plan_buckets(planned, bucket_options)) {
    FlatBucket bucket{.group = plan.group,
                      .dtype = plan.dtype,
                      .count = plan.offsets.back(),
                      .slots = plan.members,
                      .slices = std::move(plan.slices)};
    bucket.sharded = options.ranks > 1 &&
                     (options.zero > 0 || bucket_options.matrices[static_cast<size_t>(plan.group)]);
    bucket.begin = bucket.sharded ? bucket.slices[options.rank] : 0;
    bucket.end = bucket.sharded ? bucket.slices[options.rank + 1] : bucket.count;
    bucket.values = at::empty({bucket.count}, device().dtype(bucket.dtype));
    for (size_t m = 0; m < plan.members.size(); ++m) {
      FlatSlot& slot = slots_[plan.members[m]];
      slot.bucket = static_cast<int64_t>(buckets_.size());
      slot.offset = plan.offsets[m];
      bucket.values.narrow(0, slot.offset, slot.count).copy_(slot.parameter.reshape({-1}));
      flat_bind(slot.parameter, bucket, slot);
    }
    bucket.master = bucket.values.narrow(0, bucket.begin, bucket.end - bucket.begin);
    if (bucket.dtype != at::kFloat) bucket.master = bucket.master.to(at::kFloat);
    buckets_.push_back(std::move(bucket));
  }
  for (const FlatAlias& alias : aliases_) {
    const FlatSlot& slot = slots_[alias.slot];
    flat_bind(alias.handle, buckets_[slot.bucket], slot);
  }
}

at::TensorOptions FlatBuffer::device() const {
  return slots_.empty() ? at::TensorOptions()
                        : at::TensorOptions(slots_.front().parameter.device());
}

std::vector<at::Tensor> FlatBuffer::make_owned() const {
  std::vector<at::Tensor> out;
  for (const FlatBucket& bucket : buckets_)
    out.push_back(at::zeros({bucket.end - bucket.begin}, device().dtype(at::kFloat)));
  return out;
}

std::vector<OwnedTensor> FlatBuffer::master() const {
  std::vector<OwnedTensor> out;
  for (size_t s = 0; s < slots_.size(); ++s)
    out.push_back({slots_[s].name, static_cast<int64_t>(s), buckets_[slots_[s].bucket].master});
  return out;
}

void FlatBuffer::publish(Collectives& world) {
  for (const FlatBucket& bucket : buckets_) round(bucket);
  share(world);
}

void FlatBuffer::round(const FlatBucket& bucket) {
  const at::NoGradGuard no_grad;
  if (bucket.dtype != at::kFloat) bucket.own_values().copy_(bucket.master);
}

void FlatBuffer::share(Collectives& world) {
  std::vector<std::unique_ptr<Pending>> pending;
  for (const FlatBucket& bucket : buckets_) {
    if (!bucket.sharded) continue;
    Slices bytes;
    for (const int64_t offset : bucket.slices)
      bytes.push_back(offset * static_cast<int64_t>(bucket.values.element_size()));
    if (options_.device != nullptr) {
      options_.device->all_gather_slices(bucket.values.mutable_data_ptr(), bytes, DeviceType::kU8,
                                         DeviceGroup::kWorld);
      continue;
    }
    pending.push_back(world.start_all_gather_slices(bucket.values.mutable_data_ptr(), bytes));
    for (const auto& operation : pending) operation->test();
  }
  for (const auto& operation : pending) operation->wait();
  if (options_.device != nullptr) options_.device->join();
}

at::Tensor FlatBuffer::gather(const OwnedTensor& tensor, Collectives& world) const {
  const FlatSlot& slot = slots_.at(static_cast<size_t>(tensor.slot));
  const FlatBucket& bucket = buckets_[slot.bucket];
  const bool values = bucket.dtype == at::kFloat && tensor.own.is_same(bucket.master);
  if (!bucket.sharded || values) {  // rank 0 has it
    if (world.rank() != 0) return {};
    return (values ? bucket.values : tensor.own)
        .narrow(0, slot.offset, slot.count)
        .view(slot.shape)
        .cpu();
  }
  Slices bytes;
  for (const int64_t offset : bucket.slices)
    bytes.push_back(4 * std::clamp<int64_t>(offset - slot.offset, 0, slot.count));
  const int64_t own_begin = std::max<int64_t>(slot.offset - bucket.begin, 0),
                own_count = (bytes[world.rank() + 1] - bytes[world.rank()]) / 4;
  at::Tensor own, whole;
  if (own_count > 0) own = tensor.own.narrow(0, own_begin, own_count).cpu();
  if (world.rank() == 0) whole = at::empty(slot.shape, at::kFloat);
  world.gather_slices(own.defined() ? own.const_data_ptr() : nullptr, bytes,
                      whole.defined() ? whole.mutable_data_ptr() : nullptr, 0);
  return whole;
}

void FlatBuffer::put(const OwnedTensor& tensor, const at::Tensor& whole) const {
  at::NoGradGuard no_grad;
  const FlatSlot& slot = slots_.at(static_cast<size_t>(tensor.slot));
  const FlatBucket& bucket = buckets_[slot.bucket];
  const int64_t begin = std::max(slot.offset, bucket.begin),
                end = std::min(slot.offset + slot.count, bucket.end);
  if (begin >= end) return;
  tensor.own.narrow(0, begin - bucket.begin, end - begin)
      .copy_(whole.reshape({-1}).narrow(0, begin - slot.offset, end - begin));
}

void FlatBuffer::set_parameter(int64_t slot, const at::Tensor& whole) {
  at::NoGradGuard no_grad;
  const FlatSlot& to = slots_.at(static_cast<size_t>(slot));
  const FlatBucket& bucket = buckets_[to.bucket];
  bucket.values.narrow(0, to.offset, to.count).copy_(whole.reshape({-1}));
  put({to.name, slot, bucket.master}, whole);
}

}  // namespace euromodal
