// rng_test.cpp — Philox against the published vectors, streams, distributions, permutations.
#include "core/rng.h"

#include <set>

#include <gtest/gtest.h>

#include "core/error.h"

namespace euromodal {
namespace {

TEST(RngTest, PhiloxMatchesTheReferenceVectors) {  // Random123's kat_vectors
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RngTest, StreamsDependOnKeyNameAndIndexOnly) {
  const Rng root(7);
  Rng a = root.fork("mask", 3), b = Rng(7).fork("mask", 3), c = root.fork("mask", 4),
      d = root.fork("crop", 3);
  const uint64_t first = a.u64();
  EXPECT_EQ(first, b.u64());
  EXPECT_NE(first, c.u64());
  EXPECT_NE(first, d.u64());
}

TEST(RngTest, DistributionsHaveTheirMoments) {
  Rng rng(1);
  double sum = 0, normal = 0, square = 0;
  constexpr int kDraws = 20000;
  int64_t counts[5] = {};
  for (int i = 0; i < kDraws; ++i) {
    const double u = rng.uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    const double z = rng.normal();
    normal += z;
    square += z * z;
    ++counts[rng.below(5)];
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.01);
  EXPECT_NEAR(normal / kDraws, 0.0, 0.03);
  EXPECT_NEAR(square / kDraws, 1.0, 0.04);
  for (int64_t n : counts) EXPECT_NEAR(static_cast<double>(n), kDraws / 5.0, 250.0);
  EXPECT_THROW(rng.below(0), Error);
}

TEST(RngTest, PermutationsAreOneToOneForOddSizes) {
  for (int64_t n : {1, 2, 3, 7, 64, 65, 1000}) {
    std::set<int64_t> seen;
    for (int64_t i = 0; i < n; ++i) seen.insert(permuted(i, n, 42));
    EXPECT_EQ(static_cast<int64_t>(seen.size()), n);
    EXPECT_EQ(*seen.rbegin(), n - 1);
  }
  int moved = 0;
  for (int64_t i = 0; i < 100; ++i) moved += permuted(i, 100, 1) != permuted(i, 100, 2);
  EXPECT_GT(moved, 80);
  EXPECT_THROW(permuted(5, 5, 0), Error);
}

}  // namespace
}  // namespace euromodal
