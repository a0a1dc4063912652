// race_check_test.cpp — the race checker of emulated kernels (backbone/kernels/cuda/race_check.h)
// on small kernels with and without the race that their name says.
#include "backbone/kernels/cuda/race_check.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cuda/races/racy_kernels.h"

namespace euromodal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::vector<std::string> neighbours(unsigned distance, Meet how, bool fixed = false) {
  std::vector<int> y(3 * 256);
  EM_LAUNCH(neighbour_kernel, 3, 256, 1024, nullptr, y.data(), distance, how, fixed);
  return emulation::take_races();
}

TEST(RaceCheckTest, BarriersOrderWhoMeetsThere) {
  for (const bool fixed : {false, true}) {
    EXPECT_THAT(neighbours(1, Meet::kNot, fixed), Not(IsEmpty()));
    EXPECT_THAT(neighbours(0, Meet::kNot, fixed), IsEmpty());
    EXPECT_THAT(neighbours(255, Meet::kBlock, fixed), IsEmpty());
    EXPECT_THAT(neighbours(31, Meet::kWarp, fixed), IsEmpty());
    EXPECT_THAT(neighbours(32, Meet::kWarp, fixed), Not(IsEmpty()));
    EXPECT_THAT(neighbours(15, Meet::kHalfWarp, fixed), IsEmpty());
    EXPECT_THAT(neighbours(16, Meet::kHalfWarp, fixed), Not(IsEmpty()));
    EXPECT_THAT(neighbours(63, Meet::kPart, fixed), IsEmpty());
    EXPECT_THAT(neighbours(64, Meet::kPart, fixed), Not(IsEmpty()));
    EXPECT_THAT(neighbours(1, Meet::kShuffle, fixed), Not(IsEmpty()));
  }
}

TEST(RaceCheckTest, AFindingSaysWhatAndWhere) {
  const std::vector<std::string> found = neighbours(1, Meet::kNot);
  ASSERT_FALSE(found.empty());
  EXPECT_THAT(found[0], HasSubstr("a race: dynamic shared memory + "));
  EXPECT_THAT(found[0], HasSubstr("write by thread "));
  EXPECT_THAT(found[0], HasSubstr("read by thread "));
  EXPECT_THAT(found[0], HasSubstr("block 0,0,0 at "));
}

TEST(RaceCheckTest, WritesAfterReadsNeedABarrierToo) {
  std::vector<int> y(128);
  EM_LAUNCH(rounds_kernel, 2, 128, 512, nullptr, y.data(), true);
  // Both blocks add to the same y.
  EXPECT_THAT(emulation::take_races(), Not(IsEmpty()));
  EM_LAUNCH(rounds_kernel, 1, 128, 512, nullptr, y.data(), true);
  EXPECT_THAT(emulation::take_races(), IsEmpty());
  EM_LAUNCH(rounds_kernel, 1, 128, 512, nullptr, y.data(), false);
  EXPECT_THAT(emulation::take_races(), Not(IsEmpty()));
}

TEST(RaceCheckTest, ReadersOfOtherTeamsAreKept) {
  std::vector<int> y(256);
  EM_LAUNCH(middle_kernel, 1, 256, 64, nullptr, y.data(), 256U);
  EXPECT_THAT(emulation::take_races(), Not(IsEmpty()));
  EM_LAUNCH(middle_kernel, 1, 256, 64, nullptr, y.data(), 0U);
  EXPECT_THAT(emulation::take_races(), IsEmpty());
}

TEST(RaceCheckTest, BytesOfAWordAreApart) {
  alignas(16) unsigned char y[128] = {};
  EM_LAUNCH(bytes_kernel, 1, 128, 0, nullptr, y, 1U);
  EXPECT_THAT(emulation::take_races(), IsEmpty());
  EM_LAUNCH(bytes_kernel, 1, 128, 0, nullptr, y, 2U);
  EXPECT_THAT(emulation::take_races(), Not(IsEmpty()));
}

TEST(RaceCheckTest, WhatIsReadInVainMayBeStored) {
  int x = 0;
  std::vector<int> y(64);
  EM_LAUNCH(vain_kernel, 1, 64, 0, nullptr, &x, y.data(), false);
  EXPECT_THAT(emulation::take_races(), Not(IsEmpty()));
  EM_LAUNCH(vain_kernel, 1, 64, 0, nullptr, &x, y.data(), true);
  EXPECT_THAT(emulation::take_races(), IsEmpty());
}

TEST(RaceCheckTest, BlocksMeetInAtomicsAlone) {
  std::vector<int> sum(8);
  EM_LAUNCH(add_kernel, 4, 32, 0, nullptr, sum.data(), false, false);
  EXPECT_THAT(emulation::take_races(), Not(IsEmpty()));
  EM_LAUNCH(add_kernel, 4, 32, 0, nullptr, sum.data(), true, false);
  EXPECT_THAT(emulation::take_races(), IsEmpty());
  EM_LAUNCH(add_kernel, 4, 32, 0, nullptr, sum.data(), true, true);
  EXPECT_THAT(emulation::take_races(), Not(IsEmpty()));
}

TEST(RaceCheckTest, TheLastBlockNeedsReleaseAndAcquire) {
  const auto run = [](Count how) {
    std::vector<int> parts(6 * 64), sum(64);
    unsigned counter = 0;
    EM_LAUNCH(last_block_kernel, 6, 64, 0, nullptr, parts.data(), sum.data(), &counter, how);
    EXPECT_EQ(sum[5], 6);
    return emulation::take_races();
  };
  EXPECT_THAT(run(Count::kAcqRel), IsEmpty());
  EXPECT_THAT(run(Count::kFences), IsEmpty());
  EXPECT_THAT(run(Count::kPlain), Not(IsEmpty()));
  EXPECT_THAT(run(Count::kReleaseOnly), Not(IsEmpty()));
  EXPECT_THAT(run(Count::kAcquireOnly), Not(IsEmpty()));
  EXPECT_THAT(run(Count::kNoBarrier), Not(IsEmpty()));
}

TEST(RaceCheckTest, TheClustersBarrierOrdersPeers) {
  std::vector<int> y(4 * 32);
  const auto run = [&](bool before, bool after) {
    static_cast<void>(launch_cluster(peers_kernel, dim3(4), dim3(32), 2, 128, false, nullptr,
                                     y.data(), before, after));
    return emulation::take_races();
  };
  EXPECT_THAT(run(true, true), IsEmpty());
  EXPECT_THAT(run(false, true), Not(IsEmpty()));
  EXPECT_THAT(run(true, false), Not(IsEmpty()));
}

TEST(RaceCheckTest, CopiesAreWaitedForAndThenMet) {
  alignas(16) int x[512];
  for (int& v : x) v = 1;
  const auto run = [&](unsigned distance, Wait how, int want) {
    std::vector<int> y(64);
    EM_LAUNCH(copy_kernel, 1, 64, 2048, nullptr, x, y.data(), distance, how);
    EXPECT_EQ(y[3], want);
    return emulation::take_races();
  };
  EXPECT_THAT(run(0, Wait::kAll, 2), IsEmpty());
  EXPECT_THAT(run(9, Wait::kAll, 2), IsEmpty());
  EXPECT_THAT(run(0, Wait::kNoBarrier, 2), IsEmpty());
  EXPECT_THAT(run(9, Wait::kNoBarrier, -2), Not(IsEmpty()));  // the neighbour's come later
  EXPECT_THAT(run(0, Wait::kNot, -2), ElementsAre(HasSubstr("not been waited")));
  EXPECT_THAT(run(0, Wait::kOneLeft, 0), ElementsAre(HasSubstr("not been waited")));
  EXPECT_THAT(run(0, Wait::kUncommitted, -2), Not(IsEmpty()));
}

TEST(RaceCheckTest, ACopyIsAWrite) {
  alignas(16) const int x[4] = {1, 2, 3, 4};
  std::vector<int> y(64);
  EM_LAUNCH(refill_kernel, 1, 64, 1024, nullptr, x, y.data(), true);
  EXPECT_THAT(emulation::take_races(), IsEmpty());
  EM_LAUNCH(refill_kernel, 1, 64, 1024, nullptr, x, y.data(), false);
  EXPECT_THAT(emulation::take_races(), Not(IsEmpty()));
}

TEST(RaceCheckTest, DependentLaunchesWaitBeforeTheyTouch) {
  std::vector<int> x(64), weight(64), y(64), z(64);
  // The weight of the launch before the last has been written in this chain, too.
  const auto run = [&](Predecessor how, bool dependent, bool stale_weight) {
    EM_LAUNCH(store_kernel, 1, 64, 0, nullptr, stale_weight ? weight.data() : z.data(), 1);
    static_cast<void>(launch_dependent(store_kernel, dim3(1), dim3(64), 0, nullptr, x.data(), 2));
    if (dependent) {
      static_cast<void>(launch_dependent(follow_kernel, dim3(1), dim3(64), 0, nullptr, x.data(),
                                         weight.data(), y.data(), how));
    } else {
      EM_LAUNCH(follow_kernel, 1, 64, 0, nullptr, x.data(), weight.data(), y.data(), how);
    }
    return emulation::take_races();
  };
  EXPECT_THAT(run(Predecessor::kAll, true, false), IsEmpty());
  EXPECT_THAT(run(Predecessor::kAll, true, true), Not(IsEmpty()));
  EXPECT_THAT(run(Predecessor::kOne, true, false), Not(IsEmpty()));
  EXPECT_THAT(run(Predecessor::kOneAndBarrier, true, false), IsEmpty());
  EXPECT_THAT(run(Predecessor::kLate, true, false), Not(IsEmpty()));
  EXPECT_THAT(run(Predecessor::kNever, true, false), Not(IsEmpty()));
  EXPECT_THAT(run(Predecessor::kNever, false, true), IsEmpty());
}

}  // namespace
}  // namespace euromodal
