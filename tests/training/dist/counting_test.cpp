// counting_test.cpp — the world without peers: what it returns, and what it counts.
#include "training/dist/counting.h"

#include <numeric>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace euromodal {
namespace {

TEST(CountingTest, SumsAreThoseOfEqualRanks) {
  const auto world = make_counting(4, 1);
  std::vector<float> x = {1.0F, 2.0F, 3.0F, 4.0F, 5.0F};
  world->all_reduce_sum(x.data(), 5);
  EXPECT_THAT(x, testing::ElementsAre(4.0F, 8.0F, 12.0F, 16.0F, 20.0F));
  double d = 0.5;
  world->all_reduce_sum(&d, 1);
  EXPECT_EQ(d, 2.0);
  std::vector<float> out = {100.0F};
  world->reduce_scatter_sum(
      {.data = x.data(), .slices = {0, 2, 3, 3, 5}, .out = out.data(), .onto_out = true});
  EXPECT_EQ(out[0], 148.0F);
  world->reduce_scatter_sum(
      {.data = nullptr, .slices = {0, 2, 3, 3, 5}, .out = out.data(), .ranks = 1});
  EXPECT_EQ(out[0], 0.0F);
  EXPECT_EQ(world->all_gather("ab", 2).size(), 8U);
}

// What all ranks of a world send together is what they receive: a sum of G bytes over n ranks, and
// the gathering of its slices, move (n - 1) G each.
TEST(CountingTest, BytesOfAllRanksAddUp) {
  constexpr int kRanks = 5;
  constexpr int64_t kCount = 1003;
  int64_t reduced = 0, scattered = 0, gathered = 0, to_one = 0;
  const Slices slices = {0, 3, 3, 500, 1000, kCount};
  Slices bytes;
  for (const int64_t offset : slices) bytes.push_back(4 * offset);
  for (int rank = 0; rank < kRanks; ++rank) {
    const auto world = make_counting(kRanks, rank);
    std::vector<float> data(kCount, 1.0F), whole(kCount);
    world->set_phase("step 0", 1.0);
    world->all_reduce_sum(data.data(), kCount);
    world->set_phase("step 1", 1.0);
    world->reduce_scatter_sum(
        {.data = data.data(), .slices = slices, .out = data.data() + slices[rank]});
    world->all_gather_slices(data.data(), bytes);
    world->gather_slices(data.data() + slices[rank], bytes, whole.data(), 0);
    const auto& counts = world->counts();
    EXPECT_EQ(counts.at("step 0").at("all_reduce_sum").calls, 1);
    reduced += counts.at("step 0").at("all_reduce_sum").bytes;
    scattered += counts.at("step 1").at("reduce_scatter_sum").bytes;
    gathered += counts.at("step 1").at("all_gather_slices").bytes;
    to_one += counts.at("step 1").at("gather_slices").bytes;
  }
  EXPECT_EQ(reduced, 2 * (kRanks - 1) * 4 * kCount);
  EXPECT_EQ(scattered, (kRanks - 1) * 4 * kCount);
  EXPECT_EQ(gathered, (kRanks - 1) * 4 * kCount);
  EXPECT_EQ(to_one, 4 * (kCount - slices[1]));
}

TEST(CountingTest, RanksThatDoNotExistAreRefused) {
  EXPECT_THROW(make_counting(0, 0), UsageError);
  EXPECT_THROW(make_counting(2, 2), UsageError);
  EXPECT_THROW(make_counting(2, -1), UsageError);
}

}  // namespace
}  // namespace euromodal
