// packer_test.cpp — dealing by cost and packing in order.
#include "training/data/packer.h"

#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/rng.h"

namespace euromodal {
namespace {

using testing::ElementsAre;

TEST(DealTest, EqualCostsAreDealtRoundRobin) {
  const auto parts = deal({5, 5, 5, 5, 5, 5, 5}, 3, 1e-5);
  EXPECT_THAT(parts, ElementsAre(ElementsAre(0, 3, 6), ElementsAre(1, 4), ElementsAre(2, 5)));
}

TEST(DealTest, EveryPositionOnceAndWithinTheBoundOfLongestFirst) {
  Rng rng(4);
  for (const int64_t parts : {1, 2, 7}) {
    std::vector<double> rows(200);
    for (double& row : rows) row = static_cast<double>(1 + rng.below(3000));
    const auto dealt = deal(rows, parts, 1.5e-5);
    std::vector<int64_t> seen;
    double total = 0, longest = 0, most = 0;
    for (const auto& part : dealt) {
      double load = 0;
      for (const int64_t position : part) {
        const double cost = rows[position] + 1.5e-5 * rows[position] * rows[position];
        load += cost;
        longest = std::max(longest, cost);
        seen.push_back(position);
      }
      EXPECT_TRUE(std::is_sorted(part.begin(), part.end()));
      total += load;
      most = std::max(most, load);
    }
    std::sort(seen.begin(), seen.end());
    std::vector<int64_t> every(200);
    std::iota(every.begin(), every.end(), 0);
    EXPECT_EQ(seen, every);
    EXPECT_LE(most, total / static_cast<double>(parts) + longest);
  }
}

TEST(DealTest, QuadraticShareSeparatesLongSamples) {
  // By rows alone 10 short ones outweigh the long one; with attention's share the long one does.
  const std::vector<double> rows = {90, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10};
  EXPECT_GT(deal(rows, 2, 0.0)[0].size(), 1U);
  EXPECT_THAT(deal(rows, 2, 1.0)[0], ElementsAre(0));
}

std::vector<Example> examples(const std::vector<int64_t>& lengths) {
  std::vector<Example> out(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    out[i].plan.ids.assign(lengths[i], static_cast<int64_t>(i));
    out[i].plan.labels.assign(lengths[i], -100);
  }
  return out;
}

std::vector<std::vector<int64_t>> cuts(const std::vector<Batch>& batches) {
  std::vector<std::vector<int64_t>> out;
  for (const Batch& batch : batches) out.push_back(batch.rows.cu);
  return out;
}

TEST(PackPartTest, LimitsRowsAndLetsLongSamplesStandAlone) {
  const std::vector<int64_t> lengths = {3, 4, 4, 20, 1, 9, 1};
  EXPECT_THAT(cuts(pack_part(examples(lengths), {.max_tokens = 10})),
              ElementsAre(ElementsAre(0, 3, 7), ElementsAre(0, 4), ElementsAre(0, 20),
                          ElementsAre(0, 1, 10), ElementsAre(0, 1)));
  EXPECT_EQ(pack_part(examples(lengths), {}).size(), 1U);
  EXPECT_EQ(pack_part(examples(lengths), {.pack = false}).size(), lengths.size());
  EXPECT_TRUE(pack_part({}, {}).empty());
  const auto batches = pack_part(examples(lengths), {.per_sample = true});
  EXPECT_TRUE(batches[0].rows.per_sample);
  EXPECT_EQ(batches[0].ids_T.numel(), 42);
}

TEST(PackPartTest, ExamplesWithoutTokensFitInOneBatch) {
  EXPECT_THAT(cuts(pack_part(examples({0, 0, 0}), {.max_tokens = 1})),
              ElementsAre(ElementsAre(0, 0, 0, 0)));
}

}  // namespace
}  // namespace euromodal
