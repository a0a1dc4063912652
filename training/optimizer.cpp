// optimizer.cpp — see optimizer.h.
#include "training/optimizer.h"

#include <cmath>
#include <map>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/ranges.h>

#include "backbone/kernels/cuda_ops.h"
#include "training/muon.h"

namespace euromodal {

namespace {

constexpr int64_t kGrain = 65536;  // numbers per task of the elementwise loops

struct AdamWStep {
  float scale, beta1, beta2, decay, step_size, root_correction, eps;
};

void adamw_range(const AdamWStep& s, float* __restrict__ p, const float* __restrict__ g,
                 float* __restrict__ m, float* __restrict__ v, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float gradient = g[i] * s.scale;
    m[i] += (1.0F - s.beta1) * (gradient - m[i]);
    v[i] = s.beta2 * v[i] + (1.0F - s.beta2) * gradient * gradient;
    p[i] = p[i] * s.decay - s.step_size * m[i] / (std::sqrt(v[i]) / s.root_correction + s.eps);
  }
}

/// On a device: x = next, unless `use` says that nothing may change.
void take_where_applied(const at::Tensor& x, const at::Tensor& next, const GradientUse& use) {
  x.copy_(use.apply.defined() ? at::where(use.apply.to(at::kBool), next, x) : next);
}

/// m += (1 - beta) (g - m); -> g + beta (m - g), Nesterov's look ahead. g scaled first.
at::Tensor momentum_update(const at::Tensor& gradient, const at::Tensor& momentum,
                           const GradientUse& use, float beta) {
  if (gradient.is_cuda()) {
    const at::Tensor scaled = gradient * use.factor, next = at::lerp(momentum, scaled, 1.0 - beta);
    take_where_applied(momentum, next, use);
    return at::lerp(scaled, next, beta);
  }
  const float scale = *use.factor.const_data_ptr<float>();
  const at::Tensor update = at::empty_like(gradient);
  const float* g = gradient.const_data_ptr<float>();
  float* m = momentum.mutable_data_ptr<float>();
  float* u = update.mutable_data_ptr<float>();
  at::parallel_for(0, update.numel(), kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const float scaled = g[i] * scale;
      m[i] += (1.0F - beta) * (scaled - m[i]);
      u[i] = scaled + beta * (m[i] - scaled);
    }
  });
  return update;
}

}  // namespace

Optimizer::Optimizer(FlatBuffer& buffer, std::vector<GroupOptions> groups, bool one_by_one)
    : buffer_(&buffer),
      groups_(std::move(groups)),
      first_(buffer.make_owned()),
      second_(buffer.make_owned()),
      one_by_one_(one_by_one) {
  for (size_t b = 0; b < second_.size(); ++b) {
    const auto group = static_cast<size_t>(buffer.buckets()[b].group);
    if (groups_.at(group).type == GroupOptions::Type::kMuon) second_[b].reset();
  }
}

void Optimizer::step(const std::vector<double>& lr_factors, double gradient_scale,
                     Collectives& world) {
  step(lr_factors,
       GradientUse{.factor = at::full({1}, gradient_scale, buffer_->device().dtype(at::kFloat))},
       world);
}

void Optimizer::step(const std::vector<double>& lr_factors, const GradientUse& use,
                     Collectives& world) {
  at::NoGradGuard no_grad;
  ++steps_;
  // The CPU's flag can be read; a GPU's is looked at by the kernels.
  if (!buffer_->on_cuda() && use.apply.defined() && *use.apply.const_data_ptr<int32_t>() == 0)
    return;
  for (size_t b = 0; b < buffer_->buckets().size(); ++b) {
    const FlatBucket& bucket = buffer_->buckets()[b];
    const GroupOptions& group = groups_[static_cast<size_t>(bucket.group)];
    const double lr = group.lr * lr_factors.at(static_cast<size_t>(bucket.group));
    check(bucket.gradient.defined() && bucket.gradient.numel() == bucket.end - bucket.begin,
          "an update without the summed gradient");
    if (group.type == GroupOptions::Type::kMuon) {
      step_muon(group, b, lr, use);
    } else {
      step_adamw(group, b, lr, use);
    }
  }
  buffer_->share(world);
}

void Optimizer::step_adamw(const GroupOptions& options, size_t index, double lr,
                           const GradientUse& use) {
  const auto t = static_cast<double>(steps_);
  const FlatBucket& bucket = buffer_->buckets()[index];
  const bool on_cuda = buffer_->on_cuda();
  const AdamWStep s{on_cuda ? 1.0F : *use.factor.const_data_ptr<float>(),
                    static_cast<float>(options.beta1),
                    static_cast<float>(options.beta2),
                    static_cast<float>(1.0 - lr * options.weight_decay),
                    static_cast<float>(lr / (1.0 - std::pow(options.beta1, t))),
                    static_cast<float>(std::sqrt(1.0 - std::pow(options.beta2, t))),
                    static_cast<float>(options.eps)};
  if (on_cuda) {  // rounds the values too
    cuda_ops().adamw_update(
        {.master = bucket.master,
         .gradient = bucket.gradient,
         .exp_avg = first_[index],
         .exp_avg_sq = second_[index],
         .values = bucket.dtype == at::kFloat ? at::Tensor() : bucket.own_values(),
         .clip = use.factor,
         .apply = use.apply,
         .scale = s.scale,
         .beta1 = s.beta1,
         .beta2 = s.beta2,
         .decay = s.decay,
         .step_size = s.step_size,
         .root_correction = s.root_correction,
         .eps = s.eps});
    return;
  }
  float* p = bucket.master.mutable_data_ptr<float>();
  const float* g = bucket.gradient.const_data_ptr<float>();
  float* m = first_[index].mutable_data_ptr<float>();
  float* v = second_[index].mutable_data_ptr<float>();
  at::parallel_for(0, bucket.end - bucket.begin, kGrain, [&](int64_t begin, int64_t end) {
    adamw_range(s, p + begin, g + begin, m + begin, v + begin, end - begin);
  });
  FlatBuffer::round(bucket);
}

void Optimizer::step_muon(const GroupOptions& options, size_t index, double lr,
                          const GradientUse& use) {
  const FlatBucket& bucket = buffer_->buckets()[index];
  const int64_t count = bucket.end - bucket.begin;
  const auto beta = static_cast<float>(options.momentum);
  const at::Tensor update = momentum_update(bucket.gradient, first_[index], use, beta);
  // Own matrices lie one after the other; those of one shape are taken together.
  const auto& slots = buffer_->slots();
  for (size_t s = 0; s < bucket.slots.size();) {
    const FlatSlot& slot = slots[static_cast<size_t>(bucket.slots[s])];
    if (slot.offset < bucket.begin || slot.offset >= bucket.end) {
      ++s;
      continue;
    }
    int64_t same = 0;
    for (; s < bucket.slots.size(); ++s, ++same) {
      const FlatSlot& next = slots[static_cast<size_t>(bucket.slots[s])];
      if (next.shape != slot.shape || next.offset >= bucket.end) break;
    }
    orthogonalise_(update.narrow(0, slot.offset - bucket.begin, same * slot.count)
                       .view({same, slot.shape.at(0), slot.shape.at(1)}),
                   options.ns_steps, one_by_one_);
  }
  const auto decay = static_cast<float>(1.0 - lr * options.weight_decay);
  const auto rate = static_cast<float>(lr);
  if (buffer_->on_cuda()) {
    take_where_applied(bucket.master, bucket.master.mul(decay).sub_(update, rate), use);
    return FlatBuffer::round(bucket);
  }
  float* p = bucket.master.mutable_data_ptr<float>();
  const float* u = update.const_data_ptr<float>();
  at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) p[i] = p[i] * decay - rate * u[i];
  });
  FlatBuffer::round(bucket);
}

std::vector<OwnedTensor> Optimizer::state() const {
  std::vector<OwnedTensor> out;
  for (size_t s = 0; s < buffer_->slots().size(); ++s) {
    const FlatSlot& slot = buffer_->slots()[s];
    const auto index = static_cast<int64_t>(s);
    const auto bucket = static_cast<size_t>(slot.bucket);
    if (groups_[static_cast<size_t>(slot.group)].type == GroupOptions::Type::kMuon) {
      out.push_back({slot.name + ".momentum", index, first_[bucket]});
    } else {
      out.push_back({slot.name + ".exp_avg", index, first_[bucket]});
      out.push_back({slot.name + ".exp_avg_sq", index, second_[bucket]});
    }
  }
  return out;
}

void Optimizer::load_state(const std::vector<NamedTensor>& state, int64_t steps) {
  std::map<std::string, at::Tensor> given;
  for (const auto& tensor : state) given[tensor.name] = tensor.tensor;
  for (const OwnedTensor& mine : this->state()) {
    const auto found = given.find(mine.name);
    const std::vector<int64_t>& shape = buffer_->slots()[static_cast<size_t>(mine.slot)].shape;
    check<CheckpointError>(found != given.end(),
                           "optimiser state {} is missing (was the optimiser group of this tensor "
                           "changed?)",
                           mine.name);
    check<CheckpointError>(found->second.sizes() == at::IntArrayRef(shape),
                           "optimiser state {} has shape [{}], expected [{}]", mine.name,
                           fmt::join(found->second.sizes(), ", "), fmt::join(shape, ", "));
    buffer_->put(mine, found->second);
    given.erase(found);
  }
  check<CheckpointError>(given.empty(), "optimiser state {} belongs to no trainable parameter",
                         given.empty() ? std::string() : given.begin()->first);
  steps_ = steps;
}

int64_t Optimizer::held() const {
  int64_t numbers = 0;
  for (const auto* state : {&first_, &second_})
    for (const at::Tensor& tensor : *state) numbers += tensor.defined() ? tensor.numel() : 0;
  return numbers;
}

}  // namespace euromodal
