// optimizer.cpp — see optimizer.h.
#include "training/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/ranges.h>

#include "training/muon.h"

namespace euromodal {

namespace {

constexpr int64_t kGrain = 65536;  // numbers per task of the elementwise loops
constexpr int64_t kNormBlock = 16384;

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

// Multiplications of the Newton-Schulz iteration on one matrix.
double muon_cost(int64_t rows, int64_t columns) {
  const double small = static_cast<double>(std::min(rows, columns));
  const double large = static_cast<double>(std::max(rows, columns));
  return small * small * (2.0 * large + small);
}

}  // namespace

double gradient_norm(const float* gradient, int64_t count) {
  const int64_t blocks = (count + kNormBlock - 1) / kNormBlock;
  std::vector<double> sums(static_cast<size_t>(blocks), 0.0);
  at::parallel_for(0, blocks, 8, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* g = gradient + b * kNormBlock;
      const int64_t n = std::min(kNormBlock, count - b * kNormBlock);
      double sum = 0.0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
      sums[static_cast<size_t>(b)] = sum;
    }
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return std::sqrt(total);
}

Optimizer::Optimizer(FlatBuffer& buffer, std::vector<GroupOptions> groups, bool one_by_one)
    : buffer_(&buffer), groups_(std::move(groups)), one_by_one_(one_by_one) {
  states_.resize(groups_.size());
  std::vector<bool> seen(groups_.size(), false);
  for (const FlatSlot& slot : buffer.slots()) {
    const auto index = static_cast<size_t>(slot.group);
    Group& group = states_.at(index);
    if (!seen[index]) group.begin = slot.offset;
    seen[index] = true;
    group.end = slot.offset + slot.count;
    if (groups_[index].type != GroupOptions::Type::kMuon) continue;
    const int64_t rows = slot.shape.at(0), columns = slot.shape.at(1);
    if (!group.blocks.empty() && group.blocks.back().rows == rows &&
        group.blocks.back().columns == columns) {
      ++group.blocks.back().count;
    } else {
      group.blocks.push_back({slot.offset, 1, rows, columns});
    }
  }
  for (Group& group : states_) {
    group.first = at::zeros({group.end - group.begin}, at::kFloat);
    group.second = at::zeros({group.end - group.begin}, at::kFloat);
  }
}

void Optimizer::step(const std::vector<double>& lr_factors, double gradient_scale,
                     Collectives& world) {
  at::NoGradGuard no_grad;
  ++steps_;
  for (size_t i = 0; i < groups_.size(); ++i) {
    const double lr = groups_[i].lr * lr_factors.at(i);
    if (states_[i].begin == states_[i].end) continue;
    if (groups_[i].type == GroupOptions::Type::kMuon) {
      step_muon(groups_[i], states_[i], lr, gradient_scale, world);
    } else {
      step_adamw(groups_[i], states_[i], lr, gradient_scale);
    }
  }
  buffer_->publish();
}

void Optimizer::step_adamw(const GroupOptions& options, Group& group, double lr, double scale) {
  const auto t = static_cast<double>(steps_);
  const AdamWStep s{static_cast<float>(scale),
                    static_cast<float>(options.beta1),
                    static_cast<float>(options.beta2),
                    static_cast<float>(1.0 - lr * options.weight_decay),
                    static_cast<float>(lr / (1.0 - std::pow(options.beta1, t))),
                    static_cast<float>(std::sqrt(1.0 - std::pow(options.beta2, t))),
                    static_cast<float>(options.eps)};
  float* p = buffer_->master() + group.begin;
  const float* g = buffer_->gradient() + group.begin;
  float* m = group.first.mutable_data_ptr<float>();
  float* v = group.second.mutable_data_ptr<float>();
  at::parallel_for(0, group.end - group.begin, kGrain, [&](int64_t begin, int64_t end) {
    adamw_range(s, p + begin, g + begin, m + begin, v + begin, end - begin);
  });
}

void Optimizer::step_muon(const GroupOptions& options, Group& group, double lr, double scale,
                          Collectives& world) {
  const int64_t count = group.end - group.begin;
  const auto gradient_scale = static_cast<float>(scale);
  const auto beta = static_cast<float>(options.momentum);
  const float* g = buffer_->gradient() + group.begin;
  float* m = group.first.mutable_data_ptr<float>();
  float* u = group.second.mutable_data_ptr<float>();
  at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const float gradient = g[i] * gradient_scale;
      m[i] += (1.0F - beta) * (gradient - m[i]);
      u[i] = gradient + beta * (m[i] - gradient);  // Nesterov
    }
  });

  // Each rank orthogonalises a run of matrices of about equal cost; the runs follow each other in
  // the buffer, so gathering them restores the whole.
  double total = 0.0, before = 0.0;
  for (const Block& block : group.blocks)
    total += muon_cost(block.rows, block.columns) * static_cast<double>(block.count);
  int64_t mine_begin = -1, mine_end = -1;
  for (const Block& block : group.blocks) {
    const double cost = muon_cost(block.rows, block.columns);
    int64_t first = -1, last = -1;
    for (int64_t b = 0; b < block.count; ++b) {
      const auto owner = std::min<int64_t>(
          world.size() - 1,
          static_cast<int64_t>((before + 0.5 * cost) / total * static_cast<double>(world.size())));
      before += cost;
      if (owner != world.rank()) continue;
      if (first < 0) first = b;
      last = b + 1;
    }
    if (first < 0) continue;
    const int64_t numel = block.rows * block.columns;
    const int64_t begin = block.offset - group.begin + first * numel;
    const int64_t end = block.offset - group.begin + last * numel;
    orthogonalise_(
        group.second.narrow(0, begin, end - begin).view({last - first, block.rows, block.columns}),
        options.ns_steps, one_by_one_);
    if (mine_begin < 0) mine_begin = begin;
    mine_end = end;
  }
  if (world.size() > 1) {
    const int64_t bytes = mine_begin < 0 ? 0 : (mine_end - mine_begin) * 4;
    const std::vector<char> all = world.all_gather(u + std::max<int64_t>(mine_begin, 0), bytes);
    check<DistError>(static_cast<int64_t>(all.size()) == count * 4,
                     "muon: gathered {} bytes of updates, expected {}", all.size(), count * 4);
    std::memcpy(u, all.data(), all.size());
  }

  float* p = buffer_->master() + group.begin;
  const auto decay = static_cast<float>(1.0 - lr * options.weight_decay);
  const auto rate = static_cast<float>(lr);
  at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) p[i] = p[i] * decay - rate * u[i];
  });
}

std::vector<NamedTensor> Optimizer::state() const {
  std::vector<NamedTensor> out;
  for (const FlatSlot& slot : buffer_->slots()) {
    const Group& group = states_.at(static_cast<size_t>(slot.group));
    const auto view = [&](const at::Tensor& flat) {
      return flat.narrow(0, slot.offset - group.begin, slot.count).view(slot.shape);
    };
    if (groups_[static_cast<size_t>(slot.group)].type == GroupOptions::Type::kMuon) {
      out.push_back({slot.name + ".momentum", view(group.first)});
    } else {
      out.push_back({slot.name + ".exp_avg", view(group.first)});
      out.push_back({slot.name + ".exp_avg_sq", view(group.second)});
    }
  }
  return out;
}

void Optimizer::load_state(const std::vector<NamedTensor>& state, int64_t steps) {
  std::map<std::string, at::Tensor> given;
  for (const auto& tensor : state) given[tensor.name] = tensor.tensor;
  for (auto& mine : this->state()) {
    const auto found = given.find(mine.name);
    check<CheckpointError>(found != given.end(),
                           "optimiser state {} is missing (was the optimiser group of this tensor "
                           "changed?)",
                           mine.name);
    check<CheckpointError>(found->second.sizes() == mine.tensor.sizes(),
                           "optimiser state {} has shape [{}], expected [{}]", mine.name,
                           fmt::join(found->second.sizes(), ", "),
                           fmt::join(mine.tensor.sizes(), ", "));
    mine.tensor.copy_(found->second);
    given.erase(found);
  }
  check<CheckpointError>(given.empty(), "optimiser state {} belongs to no trainable parameter",
                         given.empty() ? std::string() : given.begin()->first);
  steps_ = steps;
}

}  // namespace euromodal
