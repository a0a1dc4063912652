// gradient_sync_test.cpp — buckets and slices, gradients in fp32 whatever the parameters' dtype,
// aliases, norms, and the guard against gradients that come too late. Many ranks:
// parallel_ranks_test.cpp.
#include "training/gradient_sync.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"
#include "training/bucket_plan.h"
#include "training/optimizer.h"

namespace euromodal {
namespace {

GroupOptions sync_group(GroupOptions::Type type) {
  GroupOptions group;
  group.type = type;
  group.lr = 1e-4;
  return group;
}

const std::vector<GroupOptions> kAdamW = {sync_group(GroupOptions::Type::kAdamW)};

std::vector<PlannedParameter> sync_parameters() {
  std::vector<PlannedParameter> out;
  for (int64_t i = 0; i < 20; ++i) {
    out.push_back({.shape = {30 + i % 3, 400}, .group = 0});
    out.push_back({.shape = {16, 8 + i % 2}, .group = 1});
    out.push_back({.shape = {7}, .dtype = at::kBFloat16, .group = 0});
  }
  return out;
}

double orthogonalisation(const std::vector<int64_t>& shape) {  // multiplications
  const auto small = static_cast<double>(std::min(shape[0], shape[1])),
             large = static_cast<double>(std::max(shape[0], shape[1]));
  return small * small * (2.0 * large + small);
}

TEST(BucketPlanTest, EveryParameterHasOnePlaceAndEveryNumberOneOwner) {
  const auto parameters = sync_parameters();
  for (const int ranks : {1, 2, 3, 7}) {
    for (const int64_t numbers : {1, 50'000, 10'000'000}) {
      const auto buckets =
          plan_buckets(parameters, {.numbers = numbers, .matrices = {false, true}, .ranks = ranks});
      std::vector<int64_t> seen;
      std::vector<double> cost(static_cast<size_t>(ranks), 0.0);
      for (const BucketPlan& bucket : buckets) {
        ASSERT_EQ(static_cast<int>(bucket.slices.size()), ranks + 1);
        EXPECT_EQ(bucket.slices.front(), 0);
        EXPECT_EQ(bucket.slices.back(), bucket.offsets.back());
        EXPECT_TRUE(std::is_sorted(bucket.slices.begin(), bucket.slices.end()));
        for (size_t m = 0; m < bucket.members.size(); ++m) {
          const PlannedParameter& parameter = parameters[bucket.members[m]];
          seen.push_back(bucket.members[m]);
          EXPECT_EQ(parameter.group, bucket.group);
          EXPECT_EQ(parameter.dtype, bucket.dtype);
          const int64_t begin = bucket.offsets[m], end = bucket.offsets[m + 1];
          for (int r = 0; r <= ranks; ++r) {  // cuts inside a tensor
            const int64_t cut = bucket.slices[r];
            if (cut <= begin || cut >= end) continue;
            EXPECT_EQ(bucket.group, 0) << "a matrix was cut";
            EXPECT_EQ((cut - begin) % kNormBlock, 0);
          }
          for (int r = 0; r < ranks && bucket.group == 1; ++r)
            if (bucket.slices[r] <= begin && begin < bucket.slices[r + 1])
              cost[r] += orthogonalisation(parameter.shape);
        }
        // Full, but for the last of its kind.
        if (bucket.offsets.back() < numbers) {
          const auto same = std::count_if(buckets.begin(), buckets.end(), [&](const auto& other) {
            return other.group == bucket.group && other.dtype == bucket.dtype &&
                   other.offsets.back() < numbers;
          });
          EXPECT_EQ(same, 1);
        }
      }
      std::sort(seen.begin(), seen.end());
      std::vector<int64_t> all(parameters.size());
      std::iota(all.begin(), all.end(), 0);
      EXPECT_EQ(seen, all);
      // A run of matrices ends where the next one would lie mostly in the next rank's share.
      const double total = std::accumulate(cost.begin(), cost.end(), 0.0);
      EXPECT_LE(*std::max_element(cost.begin(), cost.end()),
                total / ranks + orthogonalisation({16, 9}) + 0.5);
    }
  }
}

TEST(BucketPlanTest, LastUsedComesFirst) {
  const auto buckets = plan_buckets(
      {{.shape = {10}}, {.shape = {20}}, {.shape = {30}, .alone = true}, {.shape = {40}}},
      {.numbers = 40, .matrices = {false}, .ranks = 1});
  ASSERT_EQ(buckets.size(), 3U);
  EXPECT_THAT(buckets[0].members, testing::ElementsAre(3));
  EXPECT_THAT(buckets[1].members, testing::ElementsAre(2));
  EXPECT_THAT(buckets[2].members, testing::ElementsAre(0, 1));
}

TEST(GradientSyncTest, BFloat16ParametersKeepFp32MasterValues) {
  at::Tensor low = at::full({4}, 1.0, at::kBFloat16);
  FlatBuffer buffer({{"low", low}}, {0}, kAdamW, {}, {});
  const auto world = make_single();
  GradientSync sync(buffer, *world, true);
  Optimizer optimizer(buffer, kAdamW, false);  // a rate far below the spacing of bf16 at 1
  for (int t = 0; t < 60; ++t) {
    sync.begin({1});
    sync.backward((low * at::ones({4}, at::kBFloat16)).sum(), true);
    sync.finish();
    EXPECT_EQ(buffer.buckets()[0].gradient[0].item<float>(), 1.0F);
    EXPECT_FALSE(low.grad().defined());
    optimizer.step(std::vector<double>(optimizer.groups().size(), 1.0), 1.0, *world);
  }
  EXPECT_NEAR(buffer.buckets()[0].master[0].item<double>(), 1.0 - 60e-4, 1e-5);
  EXPECT_EQ(low.scalar_type(), at::kBFloat16);
  EXPECT_LT(low[0].item<float>(), 1.0F);  // the sum of small steps arrived
}

TEST(GradientSyncTest, AliasesGiveTheirGradientToTheParameter) {
  const at::Tensor table = at::arange(6, at::kFloat), other = at::ones({3});
  const at::Tensor alias = table.detach();
  FlatBuffer buffer({{"other", other}, {"table", table}}, {0, 0}, kAdamW, {{"table", alias}}, {});
  ASSERT_EQ(buffer.buckets().size(), 2U);
  const auto world = make_single();
  GradientSync sync(buffer, *world, true);
  sync.begin({1});
  sync.backward((table * 2.0).sum() + (alias * 3.0).sum() + other.sum(), true);
  sync.finish();
  const FlatSlot& slot = buffer.slots()[1];
  FlatBucket& bucket = buffer.buckets()[slot.bucket];
  EXPECT_TRUE(tensor_equal(bucket.gradient, at::full({6}, 5.0)));
  bucket.master[1].fill_(9.0);  // one storage for both
  EXPECT_EQ(table[1].item<float>(), 9.0F);
  EXPECT_EQ(alias[1].item<float>(), 9.0F);
}

TEST(GradientSyncTest, RoundsAreAddedInTheirOrderAndMicroBatchesInTheirs) {
  const at::Tensor w = at::ones({1});
  FlatBuffer buffer({{"w", w}}, {0}, kAdamW, {}, {});
  const auto world = make_single();
  GradientSync sync(buffer, *world, true);
  const auto grad = [&](const std::vector<std::vector<double>>& rounds) {
    sync.begin(std::vector<int>(rounds.size(), 1));
    for (const auto& batches : rounds) {
      for (size_t i = 0; i < batches.size(); ++i)
        sync.backward((w * batches[i]).sum(), i + 1 == batches.size());
      sync.end_round();
    }
    sync.finish();
    return buffer.buckets()[0].gradient[0].item<float>();
  };
  // (1e8 + 1) - 1e8 is 0 in f32, (1e8 - 1e8) + 1 is 1: the order is visible.
  EXPECT_EQ(grad({{1e8, 1.0, -1e8}}), 0.0F);
  EXPECT_EQ(grad({{1e8, -1e8, 1.0}}), 1.0F);
  EXPECT_EQ(grad({{1e8}, {1.0}, {-1e8}}), 0.0F);
  EXPECT_EQ(grad({{1e8}, {-1e8, 1.0}}), 0.0F);
  EXPECT_EQ(grad({{1e8, -1e8}, {1.0}}), 1.0F);
  EXPECT_EQ(grad({{}, {2.0}}), 2.0F);  // a round without a sample
}

TEST(GradientSyncTest, NormsAreThoseOfTheWholeGradientForOddSizes) {
  for (const int64_t n : {1, 17, 1024, 1025, 200001}) {
    const at::Tensor a = at::zeros({n}), b = at::zeros({3, 5});
    FlatBuffer buffer({{"a", a}, {"b", b}}, {0, 1},
                      {kAdamW[0], sync_group(GroupOptions::Type::kMuon)}, {}, {.bucket_bytes = 40});
    const auto world = make_single();
    GradientSync sync(buffer, *world, true);
    const at::Tensor g = at::randn({n}), h = at::randn({3, 5});
    sync.begin({1});
    sync.backward((a * g).sum() + (b * h).sum(), true);
    sync.finish();
    const GradientNorms norms = sync.norms();
    const double expected = g.to(at::kDouble).norm().item<double>(),
                 other = h.to(at::kDouble).norm().item<double>();
    ASSERT_EQ(norms.groups_G.numel(), 2);
    EXPECT_NEAR(norms.groups_G[0].item<double>(), expected,
                1e-9 * std::sqrt(static_cast<double>(n)) + 1e-9);
    EXPECT_NEAR(norms.groups_G[1].item<double>(), other, 1e-9);
    EXPECT_NEAR(norms.total.item<double>(), std::hypot(expected, other),
                1e-9 * std::sqrt(static_cast<double>(n)) + 1e-9);
  }
}

}  // namespace
}  // namespace euromodal
