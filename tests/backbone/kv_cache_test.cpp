// kv_cache_test.cpp — appending, growing, cutting, copying.
#include "backbone/kv_cache.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace euromodal {
namespace {

TEST(KvCacheTest, KeepsWhatWasAppendedWhileGrowing) {
  KvCache cache(2, 3, 4, at::kFloat);
  std::vector<at::Tensor> keys;
  for (int64_t step = 0; step < 50; ++step) {
    const at::Tensor k = at::full({1 + step % 5, 3, 4}, static_cast<double>(step));
    keys.push_back(k);
    cache.append(0, k, -k);
    const auto [k_LKN, v_LKN] = cache.append(1, k, -k);
    ASSERT_TRUE(k_LKN.equal(at::cat(keys)));
    ASSERT_TRUE(v_LKN.equal(-at::cat(keys)));
  }
  EXPECT_EQ(cache.length(), 150);
}

TEST(KvCacheTest, CutAndCopyAreIndependent) {
  KvCache cache(1, 1, 2, at::kFloat);
  cache.append(0, at::ones({5, 1, 2}), at::ones({5, 1, 2}));
  KvCache copy = cache.clone();
  cache.truncate(2);
  const auto [k, v] = cache.append(0, at::zeros({1, 1, 2}), at::zeros({1, 1, 2}));
  EXPECT_EQ(k.size(0), 3);
  EXPECT_EQ(copy.length(), 5);
  const auto [ck, cv] = copy.append(0, at::ones({1, 1, 2}), at::ones({1, 1, 2}));
  EXPECT_TRUE(ck.equal(at::ones({6, 1, 2})));
  EXPECT_THROW(cache.truncate(9), Error);
}

}  // namespace
}  // namespace euromodal
