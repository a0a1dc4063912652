// kv_cache_test.cpp — appending, cutting, copying, int8.
#include "backbone/kv_cache.h"

#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using namespace testing_support;

void expect_holds(const KvCache& cache, int64_t layer, const at::Tensor& k, const at::Tensor& v) {
  const auto [k_LKN, v_LKN] = cache.layer(layer);
  EXPECT_TRUE(tensor_equal(k_LKN, k));
  EXPECT_TRUE(tensor_equal(v_LKN, v));
}

TEST(KvCacheTest, KeepsWhatWasAppendedOverPages) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    KvCache cache(2, 3, 4, dtype);
    std::vector<at::Tensor> keys;
    for (int64_t step = 0; step < 50; ++step) {
      const at::Tensor k = randn({1 + step % 5, 3, 4}, static_cast<uint64_t>(step), dtype);
      keys.push_back(k);
      cache.append(0, k, -k);
      cache.append(1, -k, k);
    }
    const at::Tensor all = at::cat(keys);
    expect_holds(cache, 0, all, -all);
    expect_holds(cache, 1, -all, all);
    EXPECT_EQ(cache.length(), 150);
    EXPECT_EQ(cache.own_bytes(), 3 * cache.layout().page_bytes());
  }
}

TEST(KvCacheTest, CutAndCopyAreIndependent) {
  KvCache cache(1, 1, 2, at::kFloat);
  const at::Tensor old = randn({70, 1, 2}, 1), more = randn({3, 1, 2}, 2);
  cache.append(0, old, -old);
  KvCache copy = cache.clone();
  EXPECT_EQ(copy.length(), 70);
  EXPECT_EQ(cache.own_bytes(), 0);
  EXPECT_EQ(cache.shared_bytes(), 2 * cache.layout().page_bytes());
  cache.truncate(66);
  cache.append(0, more, -more);  // a copy of the second page; the first is still shared
  EXPECT_EQ(cache.own_bytes(), cache.layout().page_bytes());
  const at::Tensor cut = at::cat({old.narrow(0, 0, 66), more});
  expect_holds(cache, 0, cut, -cut);
  expect_holds(copy, 0, old, -old);
  copy.append(0, more, more);  // the last page is its own again: nothing is copied
  expect_holds(copy, 0, at::cat({old, more}), at::cat({-old, more}));
  expect_holds(cache, 0, cut, -cut);
  EXPECT_TRUE((throws_with<Error>([&] { cache.truncate(90); }, {"69", "90"})));
}

// A pass appends layer by layer: a page may be copied when only some layers have their new rows.
TEST(KvCacheTest, CopiesBetweenLayersLoseNothing) {
  KvCache cache(2, 1, 2, at::kFloat);
  const at::Tensor first = randn({5, 1, 2}, 1), second = randn({2, 1, 2}, 2);
  cache.append(0, first, first);
  cache.append(1, -first, -first);
  cache.append(0, second, second);
  KvCache copy = cache.clone();
  copy.append(1, -second, -second);
  const at::Tensor all = at::cat({first, second});
  expect_holds(copy, 0, all, all);
  expect_holds(copy, 1, -all, -all);
  expect_holds(cache, 0, all, all);
  expect_holds(cache, 1, -first, -first);
}

TEST(KvCacheTest, Int8IsTheNearestCode) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    KvCache cache(1, 2, 40, dtype, /*int8=*/true);
    at::Tensor k = randn({80, 2, 40}, 1, dtype), v = 1000.0 * randn({80, 2, 40}, 2, dtype);
    k[3].zero_();
    cache.append(0, k, v);
    const auto [k_LKN, v_LKN] = cache.layer(0);
    const auto expect_near = [&](const at::Tensor& got, const at::Tensor& stored) {
      // Half a step, and for bf16 one rounding of what comes back (another half at most).
      const at::Tensor want = stored.to(at::kFloat), step = want.abs().amax(2, true) / 127.0,
                       most = step * (dtype == at::kFloat ? 0.501 : 1.0);
      EXPECT_TRUE(((got.to(at::kFloat) - want).abs() <= most).all().item<bool>());
    };
    expect_near(k_LKN, k);
    expect_near(v_LKN, v);
  }
  KvCache cache(1, 1, 4, at::kFloat, true);
  at::Tensor bad = at::ones({2, 1, 4});
  bad[1][0][2] = std::numeric_limits<float>::infinity();
  cache.append(0, bad, bad);
  EXPECT_TRUE(cache.layer(0).first[0].isfinite().all().item<bool>());
  EXPECT_TRUE(cache.layer(0).first[1].isnan().all().item<bool>());
}

TEST(KvCacheTest, BytesOfAToken) {
  EXPECT_EQ(kv_layout(24, 8, 128, at::kBFloat16, false).token_bytes(), 24 * 8 * 2 * 256);
  EXPECT_EQ(kv_layout(24, 8, 128, at::kBFloat16, true).token_bytes(), 24 * 8 * 2 * (128 + 4));
  EXPECT_TRUE((throws_with<Error>([] { KvCache(1, 1, 2, at::kDouble); }, {"Double", "float32"})));
}

}  // namespace
}  // namespace euromodal
