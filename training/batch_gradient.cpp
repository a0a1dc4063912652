// batch_gradient.cpp — see batch_gradient.h.
#include "training/batch_gradient.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "core/time_split.h"

namespace euromodal {

BatchGradient::BatchGradient(Objective& objective, FlatBuffer& buffer, Collectives& world,
                             bool deterministic)
    : objective_(objective), buffer_(buffer), world_(world), deterministic_(deterministic) {}

double BatchGradient::run_part(const PartBatches& part, RunMetrics& metrics) {
  double count = 0.0;
  for (const Batch& batch : part.batches) {
    metrics.add("flops", objective_.flops(batch), 0.0);
    const LossSums sums = objective_.loss(batch, /*training=*/true);
    metrics.add("tokens", static_cast<double>(batch.ids_T.numel()), 0.0);
    metrics.add("samples", static_cast<double>(batch.examples.size()), 0.0);
    if (!sums.loss_sum.defined()) continue;
    // A batch may reach nothing that is trained (text alone, when only adapters are): its loss
    // counts, its gradient is zero.
    if (sums.loss_sum.requires_grad()) {
      const TimeScope scope("backward");
      sums.loss_sum.backward();
      buffer_.gather_gradient();
    }
    buffer_.tail()[0] += sums.loss_sum.item<float>();
    count += sums.count;
    metrics.add(sums.metrics);
  }
  return count;
}

BatchSums BatchGradient::run(const std::vector<PartBatches>& parts, RunMetrics& metrics,
                             std::span<double> votes) {
  std::vector<double> figures(1 + votes.size(), 0.0);
  buffer_.zero_gradient();
  if (deterministic_) {
    const auto size = static_cast<size_t>(buffer_.gradient_size());
    part_gradients_.resize(parts.size());
    std::vector<const float*> addends;
    std::vector<int64_t> ids;
    for (size_t i = 0; i < parts.size(); ++i) {
      if (i > 0) buffer_.zero_gradient();
      figures[0] += run_part(parts[i], metrics);
      part_gradients_[i].assign(buffer_.gradient(), buffer_.gradient() + size);
      addends.push_back(part_gradients_[i].data());
      ids.push_back(parts[i].part);
    }
    const TimeScope scope("communication");
    world_.ordered_sum(addends, ids, buffer_.gradient_size(), buffer_.gradient());
  } else {
    for (const PartBatches& part : parts) figures[0] += run_part(part, metrics);
    const TimeScope scope("communication");
    world_.all_reduce_sum(buffer_.gradient(), buffer_.gradient_size());
  }
  buffer_.add_aliases();
  std::copy(votes.begin(), votes.end(), figures.begin() + 1);
  const TimeScope scope("communication");
  world_.all_reduce_sum(figures.data(), static_cast<int64_t>(figures.size()));
  std::copy(figures.begin() + 1, figures.end(), votes.begin());
  return {.loss_sum = buffer_.tail()[0], .count = figures[0]};
}

}  // namespace euromodal
