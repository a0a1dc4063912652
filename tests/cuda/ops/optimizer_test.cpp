// optimizer_test.cpp — AdamW over the flat buffer on a GPU against the same on the CPU: master
// values, values in bf16 and f32, moments, also where the update is skipped; the squares of
// gradients.
#include "training/optimizer.h"

#include <cmath>

#include "backbone/kernels/cuda_ops.h"
#include "tests/cuda/ops/gpu.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::tensor_equal;
using testing_support::tensor_near;

struct After {
  std::vector<at::Tensor> values, state;
};

// Three steps from the same start and gradients.
After three_steps(at::Device device, at::ScalarType type) {
  GroupOptions group;
  group.lr = 3e-3;
  group.weight_decay = 0.1;
  group.patterns = {"*"};
  at::manual_seed(1);
  std::vector<NamedTensor> trainable;
  for (const int64_t rows : {1, 33, 200})
    trainable.push_back({fmt::format("w{}", rows), at::randn({rows, 7}).to(type).to(device)});
  FlatBuffer buffer(trainable, std::vector<int64_t>(trainable.size(), 0), {group}, {},
                    {.bucket_bytes = 3000});
  Optimizer optimizer(buffer, {group}, false);
  const auto world = make_single();
  for (int step = 0; step < 3; ++step) {
    for (FlatBucket& bucket : buffer.buckets())
      bucket.gradient = (at::randn({bucket.end - bucket.begin}) * 0.1).to(device);
    optimizer.step({1.0}, 0.37, *world);
  }
  After out;
  for (const NamedTensor& p : trainable) out.values.push_back(p.tensor.detach().cpu());
  for (const OwnedTensor& owned : optimizer.state()) out.state.push_back(owned.own.cpu());
  return out;
}

TEST(OptimizerOnGpuTest, GivesTheBitsOfTheCpu) {
  EM_ON_GPU(device);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const After got = three_steps(device, type), want = three_steps(at::kCPU, type);
    ASSERT_EQ(got.state.size(), want.state.size());
    for (size_t i = 0; i < got.values.size(); ++i)
      EXPECT_TRUE(tensor_equal(got.values[i], want.values[i])) << c10::toString(type) << i;
    for (size_t i = 0; i < got.state.size(); ++i)
      EXPECT_TRUE(tensor_equal(got.state[i], want.state[i])) << c10::toString(type) << i;
  }
}

TEST(OptimizerOnGpuTest, SquaresOfGradients) {
  EM_ON_GPU(device);
  const at::Tensor a = at::randn({100001}), b = at::randn({17});
  const at::Tensor got = cuda_ops().square_sums({a.to(device), b.to(device)}).cpu();
  for (int64_t i = 0; i < 2; ++i) {
    const double square = (i == 0 ? a : b).to(at::kDouble).square().sum().item<double>();
    EXPECT_NEAR(got[i].item<double>(), square, 1e-9 * square);
  }
}

}  // namespace
}  // namespace euromodal
