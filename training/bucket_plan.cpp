// bucket_plan.cpp — see bucket_plan.h.
#include "training/bucket_plan.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace euromodal {
namespace {

int64_t bucket_numel(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

// Multiplications of Muon's Newton-Schulz iteration on one matrix.
double bucket_matrix_cost(const std::vector<int64_t>& shape) {
  const auto small = static_cast<double>(std::min(shape.at(0), shape.at(1)));
  const auto large = static_cast<double>(std::max(shape.at(0), shape.at(1)));
  return small * small * (2.0 * large + small);
}

// The last place at or before `at` where a bucket may be cut.
int64_t bucket_cut(const BucketPlan& bucket, int64_t at) {
  const auto next = std::upper_bound(bucket.offsets.begin(), bucket.offsets.end(), at);
  const int64_t begin = *std::prev(next);
  return begin + (at - begin) / kNormBlock * kNormBlock;
}

// Each rank owns a run of matrices of about equal cost; the runs follow each other through all
// buckets of the group.
void bucket_slice_matrices(const std::vector<PlannedParameter>& parameters,
                           const std::vector<BucketPlan*>& buckets, int ranks) {
  double total = 0.0, before = 0.0;
  for (const BucketPlan* bucket : buckets)
    for (const int64_t member : bucket->members)
      total += bucket_matrix_cost(parameters[member].shape);
  for (BucketPlan* bucket : buckets) {
    bucket->slices.assign(static_cast<size_t>(ranks) + 1, 0);
    for (size_t m = 0; m < bucket->members.size(); ++m) {
      const double cost = bucket_matrix_cost(parameters[bucket->members[m]].shape);
      const auto owner = static_cast<int>((before + 0.5 * cost) / total * ranks);
      before += cost;
      for (int r = std::min(owner, ranks - 1) + 1; r <= ranks; ++r)
        bucket->slices[r] = bucket->offsets[m + 1];
    }
  }
}

}  // namespace

std::vector<BucketPlan> plan_buckets(const std::vector<PlannedParameter>& parameters,
                                     const BucketOptions& options) {
  std::vector<BucketPlan> buckets;
  std::map<std::pair<int64_t, at::ScalarType>, size_t> open;  // the bucket that is being filled
  std::vector<int64_t> filled;
  for (auto i = static_cast<int64_t>(parameters.size()) - 1; i >= 0; --i) {
    const PlannedParameter& parameter = parameters[i];
    const std::pair<int64_t, at::ScalarType> key{parameter.group, parameter.dtype};
    const auto at = open.find(key);
    size_t index = buckets.size();
    if (!parameter.alone && at != open.end()) {
      index = at->second;
    } else {
      buckets.push_back({.group = parameter.group, .dtype = parameter.dtype});
      filled.push_back(0);
      if (!parameter.alone) open[key] = index;
    }
    buckets[index].members.push_back(i);
    filled[index] += bucket_numel(parameter.shape);
    if (!parameter.alone && filled[index] >= options.numbers) open.erase(key);
  }
  std::map<int64_t, std::vector<BucketPlan*>> matrices;
  for (BucketPlan& bucket : buckets) {
    std::stable_sort(bucket.members.begin(), bucket.members.end(), [&](int64_t a, int64_t b) {
      return parameters[a].shape < parameters[b].shape;
    });
    bucket.offsets = {0};
    for (const int64_t member : bucket.members)
      bucket.offsets.push_back(bucket.offsets.back() + bucket_numel(parameters[member].shape));
    if (options.matrices.at(static_cast<size_t>(bucket.group))) {
      matrices[bucket.group].push_back(&bucket);
      continue;
    }
    bucket.slices = even_slices(bucket.offsets.back(), options.ranks);
    for (int r = 1; r < options.ranks; ++r) bucket.slices[r] = bucket_cut(bucket, bucket.slices[r]);
  }
  for (const auto& [group, list] : matrices) bucket_slice_matrices(parameters, list, options.ranks);
  return buckets;
}

}  // namespace euromodal
