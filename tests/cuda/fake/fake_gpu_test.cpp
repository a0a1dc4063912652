// fake_gpu_test.cpp — the stand-in for a GPU counts what makes a host wait, and nothing else; what
// it computes, forward and backward, is what the CPU computes.
#include "tests/support/fake_gpu.h"

#include <cmath>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backbone/kernels/to_device.h"
#include "tests/support/tensor_near.h"
#include "training/late_read.h"

namespace euromodal::testing_support {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

class FakeGpuTest : public testing::Test {
 protected:
  FakeGpuTest() : gpu_(fake_gpu()) {
    take_host_waits();
    take_event_waits();
  }
  at::Device gpu_;
};

TEST_F(FakeGpuTest, ComputesWhatTheCpuComputes) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({5, 7}), w = at::randn({3, 7}), b = at::randn({3});
  const auto run = [&](at::Device device) {
    const at::Tensor x_d = to_device(x, device), b_d = to_device(b, device);
    at::Tensor w_d = to_device(w, device).detach().requires_grad_(true);
    const at::Tensor y = at::linear(x_d, w_d, b_d).relu();
    at::Tensor out = at::cat({y, y.transpose(0, 1).reshape({5, 3})}).softmax(1);
    out = at::where(out > 0.5, out, out * 2.0)
              .index_select(0, at::arange(4, x_d.options().dtype(at::kLong)));
    out.sum(0).pow(2).sum().backward();
    return std::vector<at::Tensor>{out.detach(), w_d.grad(), std::get<0>(x_d.sort(1)),
                                   x_d.narrow(1, 2, 3).unfold(1, 2, 1),
                                   at::full({2}, 3.0, x_d.options())};
  };
  const std::vector<at::Tensor> got = run(gpu_), want = run(at::kCPU);
  EXPECT_THAT(take_host_waits(), IsEmpty());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_TRUE(got[i].is_cuda()) << i;
    EXPECT_TRUE(tensor_equal(got[i].cpu(), want[i])) << i;
  }
  EXPECT_THAT(take_host_waits(), ElementsAre(Pair("copy to the host", 5)));
}

TEST_F(FakeGpuTest, WritesGoWhereTheyShould) {
  const at::Tensor x = at::zeros({3, 4}, gpu_), row = x.select(0, 1);
  row.add_(2.0);
  x.narrow(1, 0, 1).fill_(-1.0);
  const at::Tensor taken = at::empty({0}, x.options());
  at::Tensor out = taken;
  at::add_out(out, x, x);
  EXPECT_TRUE(out.is_same(taken));
  EXPECT_TRUE(tensor_equal(
      taken.cpu(),
      at::tensor({-2.F, 0.F, 0.F, 0.F, -2.F, 4.F, 4.F, 4.F, -2.F, 0.F, 0.F, 0.F}).view({3, 4})));
  EXPECT_TRUE(at::empty({9}, gpu_).cpu().isnan().all().item<bool>()) << "new memory holds NaN";
}

TEST_F(FakeGpuTest, CountsWhatWaits) {
  const at::Tensor x = to_device(at::ones({4}), gpu_);
  EXPECT_THAT(take_host_waits(), IsEmpty());
  EXPECT_EQ(x.sum().item<float>(), 4.0F);
  EXPECT_THAT(take_host_waits(), ElementsAre(Pair("aten::_local_scalar_dense", 1)));
  const at::Tensor up = at::ones({4}).to(gpu_);
  EXPECT_THAT(take_host_waits(), ElementsAre(Pair("copy to the device from pageable memory", 1)));
  const at::Tensor blocking = at::ones({4}).pin_memory().to(gpu_);
  EXPECT_THAT(take_host_waits(), ElementsAre(Pair("blocking copy to the device", 1)));
  const at::Tensor where = (x > 0.0).nonzero(), some = x.masked_select(x > 0.0),
                   other = x.index({x > 0.0});
  EXPECT_EQ(where.numel() + some.numel() + other.numel(), 12);
  EXPECT_TRUE(x.equal(up));
  EXPECT_THAT(take_host_waits(), ElementsAre(Pair("aten::equal", 1), Pair("aten::masked_select", 1),
                                             Pair("aten::nonzero", 2)))
      << "a mask as index is a nonzero too";
  EXPECT_THROW(x + at::ones({4}), c10::Error);
  EXPECT_THROW(x.index_select(0, at::zeros({1}, at::kLong)), c10::Error);
  EXPECT_THAT(take_host_waits(), IsEmpty());
}

TEST_F(FakeGpuTest, LateReadsAreThereAfterTheirEventAndNoSooner) {
  const at::Tensor x = at::full({2}, 7.0, at::TensorOptions(gpu_).dtype(at::kDouble));
  const LateRead first(x), second(x.add_(1.0));
  EXPECT_THAT(take_host_waits(), IsEmpty());
  EXPECT_EQ(take_event_waits(), 0);
  EXPECT_THAT(first.read(), ElementsAre(7.0, 7.0));
  EXPECT_EQ(take_event_waits(), 1);
  EXPECT_THAT(second.read(), ElementsAre(8.0, 8.0));
  EXPECT_THAT(take_host_waits(), IsEmpty());
  const at::Tensor early = at::empty({2}, at::kDouble).pin_memory();
  early.copy_(x, /*non_blocking=*/true);
  EXPECT_TRUE(early.isnan().all().item<bool>());
  EXPECT_EQ(LateRead(at::full({1}, 3.0, at::kDouble)).read().front(), 3.0);
}

}  // namespace
}  // namespace euromodal::testing_support
