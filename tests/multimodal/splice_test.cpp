// splice_test.cpp — media rows land where the placeholders are, and any other number of rows
// throws.
#include "multimodal/splice.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

SpliceItem item(int64_t start, int64_t length, int64_t rows) {
  return {start, length, rows, Modality::kAudio, 2, "fleurs_pt_00412"};
}

TEST(SpliceTest, ReplacesTheRowsOfTheSpans) {
  const at::Tensor emb = randn({8, 3}, 1), rows = randn({4, 3}, 2);
  const at::Tensor out = splice(emb, rows, {item(1, 3, 3), item(6, 1, 1)});
  at::Tensor want = emb.clone();
  want.slice(0, 1, 4).copy_(rows.slice(0, 0, 3));
  want.slice(0, 6, 7).copy_(rows.slice(0, 3, 4));
  EXPECT_TRUE(same_bits(out, want));
  EXPECT_TRUE(same_bits(splice(emb, rows.slice(0, 0, 0), {}), emb));
}

TEST(SpliceTest, GradientsMatchDifferences) {
  EXPECT_TRUE(gradcheck(
      [](const std::vector<at::Tensor>& in) {
        return splice(in[0], in[1], {item(0, 2, 2), item(4, 1, 1)}).square();
      },
      {randn({6, 2}, 1, at::kDouble), randn({3, 2}, 2, at::kDouble)}));
}

TEST(SpliceTest, OneRowForThreeSlotsThrows) {
  EXPECT_TRUE((throws_with<DataError>(
      [] {
        splice(at::zeros({8, 3}), at::ones({1, 3}), {item(1, 3, 1)});
      },
      {"fleurs_pt_00412", "audio 2", "3", "1"})));
}

TEST(SpliceTest, FiveRowsForThreeSlotsThrows) {
  EXPECT_TRUE((throws_with<DataError>(
      [] {
        splice(at::zeros({8, 3}), at::ones({5, 3}), {item(1, 3, 5)});
      },
      {"fleurs_pt_00412", "3", "5"})));
}

TEST(SpliceTest, TensorWithOtherRowsThanAnnouncedThrows) {
  EXPECT_TRUE((throws_with<DataError>(
      [] {
        splice(at::zeros({8, 3}), at::ones({5, 3}), {item(1, 3, 3)});
      },
      {"3", "5"})));
}

TEST(SpliceTest, SpansMustBeInsideAndApart) {
  EXPECT_TRUE((throws_with<Error>(
      [] {
        splice(at::zeros({8, 3}), at::ones({3, 3}), {item(6, 3, 3)});
      },
      {"8 rows"})));
  EXPECT_TRUE((throws_with<Error>(
      [] {
        splice(at::zeros({8, 3}), at::ones({4, 3}), {item(1, 2, 2), item(2, 2, 2)});
      },
      {"overlap"})));
  EXPECT_TRUE((throws_with<Error>(
      [] {
        splice(at::zeros({8, 3}), at::ones({2, 4}), {item(1, 2, 2)});
      },
      {"[2, 4]"})));
}

}  // namespace
}  // namespace euromodal
