// splice_rows_test.cpp — the splice kernels against splice_rows_ref: spans at both ends, side by
// side and empty, dtypes, odd widths, unaligned memory, each gradient alone, none at all.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/splice_rows/splice_rows_kernel.h"
#include "backbone/kernels/splice_rows/splice_rows_ref.h"
#include "tests/support/kernel_buffers.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::ShiftedBuffer;
using testing_support::tensor_equal;

at::Tensor table_of(const std::vector<RowSpan>& spans) {
  std::vector<int64_t> starts, ends, before;
  int64_t total = 0;
  for (const RowSpan& span : spans) {
    starts.push_back(span.start);
    ends.push_back(span.start + span.rows);
    before.push_back(total);
    total += span.rows;
  }
  return at::stack(
      {at::tensor(starts, at::kLong), at::tensor(ends, at::kLong), at::tensor(before, at::kLong)});
}

struct Result {
  at::Tensor y, demb, drows;
};

Result run(const at::Tensor& emb, const at::Tensor& rows, const at::Tensor& dy,
           const std::vector<RowSpan>& spans, int64_t shift, bool wants_demb = true,
           bool wants_drows = true) {
  const at::ScalarType type = emb.scalar_type();
  const ShiftedBuffer embs(emb, shift), media(rows, shift), dys(dy, shift),
      y = ShiftedBuffer::poisoned(emb.sizes(), type, shift),
      demb = ShiftedBuffer::poisoned(emb.sizes(), type, shift),
      drows = ShiftedBuffer::poisoned(rows.sizes(), type, shift);
  const DeviceBuffer table(table_of(spans));
  const RowSpans on_device{table.as<int64_t>(), static_cast<int64_t>(spans.size())};
  const int64_t bytes = emb.size(1) * static_cast<int64_t>(emb.element_size());
  EXPECT_EQ(splice_rows_forward(
                {embs.data(), media.data(), y.data(), on_device, emb.size(0), bytes}, nullptr),
            cudaSuccess);
  EXPECT_EQ(
      splice_rows_backward({dys.data(), wants_demb ? demb.data() : nullptr,
                            wants_drows ? drows.data() : nullptr, on_device, emb.size(0), bytes},
                           nullptr),
      cudaSuccess);
  return {y.tensor(), demb.tensor(), drows.tensor()};
}

TEST(SpliceRowsKernelTest, MatchesTheReference) {
  EM_NEEDS_GPU();
  const std::vector<std::vector<RowSpan>> cases{
      {{0, 5}}, {{36, 1}}, {{0, 3}, {3, 2}, {9, 0}, {11, 7}, {30, 7}}, {{0, 37}}};
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
    for (const int64_t D : {1, 3, 64, 1030}) {
      for (const auto& spans : cases) {
        int64_t M = 0;
        for (const RowSpan& span : spans) M += span.rows;
        at::manual_seed(static_cast<uint64_t>(D + M));
        const at::Tensor emb = at::randn({37, D}).to(type).requires_grad_(true),
                         rows = at::randn({M, D}).to(type).requires_grad_(true),
                         dy = at::randn({37, D}).to(type);
        const at::Tensor want = splice_rows_ref(emb, rows, spans);
        want.backward(dy);
        for (const int64_t shift : {0, 1}) {
          SCOPED_TRACE(
              fmt::format("{} wide {} rows {} shift {}", D, M, c10::toString(type), shift));
          const Result got = run(emb.detach(), rows.detach(), dy, spans, shift);
          EXPECT_TRUE(tensor_equal(got.y, want));
          EXPECT_TRUE(tensor_equal(got.demb, emb.grad()));
          EXPECT_TRUE(tensor_equal(got.drows, rows.grad()));
        }
      }
    }
  }
}

TEST(SpliceRowsKernelTest, EachGradientAloneAndNothing) {
  EM_NEEDS_GPU();
  const at::Tensor emb = at::randn({9, 24}), rows = at::randn({4, 24});
  const std::vector<RowSpan> spans{{1, 1}, {6, 3}};
  const Result all = run(emb, rows, emb, spans, 0),
               first = run(emb, rows, emb, spans, 0, true, false),
               second = run(emb, rows, emb, spans, 0, false, true);
  EXPECT_TRUE(tensor_equal(first.demb, all.demb) && tensor_equal(second.drows, all.drows));
  EXPECT_TRUE(first.drows.isnan().all().item<bool>() && second.demb.isnan().all().item<bool>());
  EXPECT_TRUE(tensor_equal(run(emb, rows.narrow(0, 0, 0), emb, {}, 0).y, emb));
  EXPECT_EQ(run(emb.narrow(0, 0, 0), rows.narrow(0, 0, 0), emb.narrow(0, 0, 0), {}, 0).y.numel(),
            0);
  SpliceForwardArgs args{};
  args.rows = int64_t{1} << 31;
  EXPECT_EQ(splice_rows_forward(args, nullptr), cudaErrorInvalidValue);
  args.rows = 1;
  args.row_bytes = 3;
  EXPECT_EQ(splice_rows_forward(args, nullptr), cudaErrorInvalidValue);
}

TEST(RowSpansTest, FindsRowsBeyond31Bits) {
  const int64_t far = int64_t{1} << 33;
  const std::vector<int64_t> table{0, 10, far, 5, 10, far + 7, 0, 5, 5};  // starts, ends, before
  const RowSpans spans{table.data(), 3};
  EXPECT_EQ(spans.find(0), 0);
  EXPECT_EQ(spans.find(4), 4);
  EXPECT_EQ(spans.find(5), -1);
  EXPECT_EQ(spans.find(10), -1) << "an empty run";
  EXPECT_EQ(spans.find(far - 1), -1);
  EXPECT_EQ(spans.find(far), 5);
  EXPECT_EQ(spans.find(far + 6), 11);
  EXPECT_EQ(spans.find(far + 7), -1);
  EXPECT_EQ((RowSpans{nullptr, 0}).find(far), -1);
}

}  // namespace
}  // namespace euromodal
