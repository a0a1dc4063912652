// Weights: strictness, ownership, and draws that depend on (seed, name) alone.
#include "backbone/weights/weights.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

Weights three() {
  return Weights::from_tensors(
      {{"a.w", at::ones({2, 3})}, {"a.b", at::zeros({2})}, {"ids", at::arange(3)}}, at::kFloat,
      "m");
}

TEST(WeightsTest, MissingMisshapenLeftOverAndTwiceAreNamed) {
  const auto take = [](const char* name, std::vector<int64_t> shape) {
    return [name, shape] { (void)three().take(name, shape, Init::zeros()); };
  };
  EXPECT_TRUE((throws_with<CheckpointError>(take("a.c", {2}), {"m: tensor a.c is missing"})));
  EXPECT_TRUE((throws_with<CheckpointError>(take("a.w", {3, 2}),
                                            {"tensor a.w has shape [2, 3], expected [3, 2]"})));
  EXPECT_TRUE((throws_with<CheckpointError>(take("ids", {3}), {"ids", "I64", "floating"})));
  Weights w = three();
  (void)w.scope("a.").take("b", {2}, Init::zeros());
  EXPECT_TRUE((throws_with<CheckpointError>([&] { w.finish(); }, {"m: unexpected", "a.w", "ids"})));
  EXPECT_TRUE((throws_with<CheckpointError>([&] { (void)w.take("a.b", {2}, Init::zeros()); },
                                            {"a.b", "twice"})));
}

TEST(WeightsTest, IgnoredGlobsAreNotLeftOver) {
  Weights w = three();
  EXPECT_TRUE(w.has("ids"));
  EXPECT_FALSE(w.has("id"));
  EXPECT_EQ(w.shape("a.w"), (std::vector<int64_t>{2, 3}));
  w.ignore("i*s");
  EXPECT_THROW(w.finish(), CheckpointError);
  w.ignore("a.*x");
  EXPECT_THROW(w.finish(), CheckpointError);
  w.scope("a").ignore("*");
  w.finish();
}

TEST(WeightsTest, TakenKeepsTheOrderAndConvertsTheDtype) {
  Weights w = Weights::from_tensors({{"b", at::ones({2})}, {"a", at::ones({3})}}, at::kBFloat16);
  const at::Tensor a = w.scope("").take("a", {3}, Init::zeros());
  (void)w.take("b", {2}, Init::zeros());
  w.finish();
  EXPECT_EQ(a.scalar_type(), at::kBFloat16);
  ASSERT_EQ(w.taken().size(), 2u);
  EXPECT_EQ(w.taken()[0].name, "a");
  EXPECT_TRUE(w.taken()[0].tensor.is_same(a));
}

TEST(WeightsTest, WhatSomebodyElseHoldsIsCopied) {
  const at::Tensor mine = at::ones({4});
  Weights w = Weights::from_tensors({{"x", mine}, {"row", mine.narrow(0, 0, 2)}}, at::kFloat);
  w.take("x", {4}, Init::zeros()).mul_(2);
  w.take("row", {2}, Init::zeros()).mul_(2);
  EXPECT_TRUE(tensor_equal(mine, at::ones({4})));
}

TEST(WeightsTest, WhatNobodyElseHoldsIsNot) {
  std::vector<NamedTensor> tensors(1);
  tensors[0] = {"x", at::ones({4})};
  const void* data = tensors[0].tensor.const_data_ptr();
  Weights w = Weights::from_tensors(std::move(tensors), at::kFloat);
  EXPECT_EQ(w.take("x", {4}, Init::zeros()).const_data_ptr(), data);
}

TEST(WeightsTest, FolderIsMappedAndUpdatesInPlaceStayInMemory) {
  TempDir dir;
  save_model_tensors(dir.path(), {{"x", at::ones({4})}});
  {
    Weights w = Weights::from_folder(dir.path(), at::kFloat);
    at::Tensor x = w.take("x", {4}, Init::zeros());
    x.add_(1);
    EXPECT_TRUE(tensor_equal(x, at::full({4}, 2.0f)));
  }
  Weights again = Weights::from_folder(dir.path(), at::kFloat);
  EXPECT_TRUE(tensor_equal(again.take("x", {4}, Init::zeros()), at::ones({4})));
  EXPECT_EQ(again.what(), dir.path().string());
}

TEST(WeightsTest, DrawsDependOnSeedAndNameAlone) {
  Weights first = Weights::random(7, at::kFloat), second = Weights::random(7, at::kFloat);
  Weights other = Weights::random(8, at::kFloat), half = Weights::random(7, at::kBFloat16);
  const auto draw = [](Weights& w, const char* name) {
    return w.take(name, {64, 64}, Init::normal(0.02));
  };
  EXPECT_TRUE(first.random());
  EXPECT_TRUE(first.has("anything"));
  const at::Tensor a = draw(first, "a"), b = draw(first, "b");
  EXPECT_TRUE(tensor_equal(draw(second, "b"), b));
  EXPECT_TRUE(tensor_equal(draw(second, "a"), a));
  EXPECT_FALSE(at::equal(a, b));
  EXPECT_FALSE(at::equal(draw(other, "a"), a));
  EXPECT_TRUE(tensor_equal(draw(half, "a"), a.to(at::kBFloat16)));
  EXPECT_NEAR(a.std().item<double>(), 0.02, 0.001);
  EXPECT_NEAR(a.mean().item<double>(), 0.0, 0.002);
  EXPECT_TRUE(tensor_equal(first.take("g", {3}, Init::ones()), at::ones({3})));
  EXPECT_TRUE(tensor_equal(first.take("c", {3}, Init::constant(-10)), at::full({3}, -10.0f)));
  EXPECT_TRUE(tensor_equal(first.take("z", {3}, Init::zeros()), at::zeros({3})));
  first.finish();
}

}  // namespace
}  // namespace euromodal
