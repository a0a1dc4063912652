// bucket_plan.h — how trainable parameters lie in buckets, and which rank owns which part of each.
// A bucket holds neighbours of one optimiser group and one dtype whose gradients become complete
// about the same time: it is reduced and updated as one array.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/dist/collectives.h"

namespace euromodal {

/// Numbers of a tensor whose squares are summed in one go. Cuts inside a tensor fall on multiples,
/// so that norms have the same bits whoever owns what.
constexpr int64_t kNormBlock = 1024;

struct PlannedParameter {
  std::vector<int64_t> shape;
  at::ScalarType dtype = at::kFloat;
  int64_t group = 0;
  bool alone = false;  // in a bucket of its own
};

struct BucketPlan {
  int64_t group = 0;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> members{};  // indices of parameters, in order of their place in the bucket
  std::vector<int64_t> offsets{};  // where each begins, and the bucket's count
  Slices slices{};                 // of the ranks
};

struct BucketOptions {
  int64_t numbers = 0;         // a bucket is full when it has as many
  std::vector<bool> matrices;  // by group: is every tensor updated as a whole (Muon)?
  int ranks = 1;
};

/// Buckets in the order in which a backward pass should complete them: `parameters` (in the order
/// of use) from the last to the first. Inside a bucket equal shapes are neighbours. Slices of
/// groups of matrices hold whole matrices, about equal in cost over the group; other slices are
/// even up to kNormBlock.
std::vector<BucketPlan> plan_buckets(const std::vector<PlannedParameter>& parameters,
                                     const BucketOptions& options);

}  // namespace euromodal
