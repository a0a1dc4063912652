// batch_gradient.cpp — see batch_gradient.h.
#include "training/batch_gradient.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "core/time_split.h"

namespace euromodal {

BatchGradient::BatchGradient(Objective& objective, FlatBuffer& buffer, Collectives& world,
                             const BatchGradientOptions& options)
    : objective_(objective),
      buffer_(buffer),
      world_(world),
      options_(options),
      sync_(buffer, world, options.overlap) {}

at::Tensor BatchGradient::zero() const { return at::zeros({}, buffer_.device().dtype(at::kFloat)); }

BatchSums BatchGradient::run_part(const PartBatches& part, RunMetrics& metrics, bool last) {
  BatchSums out{.loss_sum = zero()};
  for (size_t i = 0; i < part.batches.size(); ++i) {
    const Batch& batch = part.batches[i];
    metrics.add("flops", objective_.flops(batch), 0.0);
    const LossSums sums = objective_.loss(batch, /*training=*/true);
    metrics.add("tokens", static_cast<double>(batch.ids_T.numel()), 0.0);
    metrics.add("samples", static_cast<double>(batch.examples.size()), 0.0);
    if (!sums.loss_sum.defined()) continue;
    // A batch may reach nothing that is trained (text alone, when only adapters are): its loss
    // counts, its gradient is zero.
    if (sums.loss_sum.requires_grad()) {
      const TimeScope scope("backward");
      sync_.backward(sums.loss_sum, last && i + 1 == part.batches.size());
    }
    out.loss_sum = out.loss_sum + sums.loss_sum.detach();
    out.count += sums.count;
    metrics.add(sums.metrics);
  }
  return out;
}

void BatchGradient::sum_over_ranks(const at::Tensor& loss_sum) {
  DeviceCollectives* device = buffer_.options().device;
  if (device != nullptr) {
    device->all_reduce_sum(loss_sum.mutable_data_ptr(), 1, DeviceType::kF32, DeviceGroup::kWorld);
    device->join();
  } else if (!buffer_.on_cuda()) {
    world_.all_reduce_sum(loss_sum.mutable_data_ptr<float>(), 1);
  }
}

BatchSums BatchGradient::run(const std::vector<PartBatches>& parts, RunMetrics& metrics,
                             std::span<double> votes) {
  const int world = world_.size();
  std::vector<int> contributors;
  for (int64_t first = 0; first < options_.parts; first += world) {
    contributors.push_back(static_cast<int>(std::min<int64_t>(world, options_.parts - first)));
    if (!options_.deterministic) break;  // all parts of a rank are one round
  }
  sync_.begin(contributors);
  std::vector<double> figures(1 + votes.size(), 0.0);
  std::vector<at::Tensor> losses;
  for (size_t i = 0; i < parts.size(); ++i) {
    const int64_t expected = static_cast<int64_t>(i) * world + world_.rank();
    check(parts[i].part == expected && expected < options_.parts,
          "part {} of the batch where part {} of {} is due", parts[i].part, expected,
          options_.parts);
    const BatchSums sums =
        run_part(parts[i], metrics, options_.deterministic || i + 1 == parts.size());
    if (options_.deterministic) {
      const TimeScope scope("communication");
      sync_.end_round();
    }
    losses.push_back(sums.loss_sum);
    figures[0] += sums.count;
  }
  const TimeScope scope("communication");
  sync_.finish();
  at::Tensor loss_sum = zero();
  if (options_.deterministic) {  // on the CPU alone
    std::vector<const float*> addends;
    std::vector<int64_t> ids;
    for (size_t i = 0; i < parts.size(); ++i) {
      addends.push_back(losses[i].const_data_ptr<float>());
      ids.push_back(parts[i].part);
    }
    world_.ordered_sum(addends, ids, 1, loss_sum.mutable_data_ptr<float>());
  } else {
    for (const at::Tensor& loss : losses) loss_sum = loss_sum + loss;
    sum_over_ranks(loss_sum);
  }
  std::copy(votes.begin(), votes.end(), figures.begin() + 1);
  world_.all_reduce_sum(figures.data(), static_cast<int64_t>(figures.size()));
  std::copy(figures.begin() + 1, figures.end(), votes.begin());
  return {.loss_sum = loss_sum, .count = figures[0]};
}

}  // namespace euromodal
