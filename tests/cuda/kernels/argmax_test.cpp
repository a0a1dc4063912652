// argmax_test.cpp — the most likely token: ties, rows that are left alone, odd sizes, NaN.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/argmax/argmax_kernel.h"
#include "tests/support/device_buffer.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;

TEST(ArgmaxKernelTest, TheLowestIdOfTheLargest) {
  EM_NEEDS_GPU();
  for (const int64_t V : {int64_t{1}, int64_t{7}, int64_t{1024}, int64_t{4099}, int64_t{128000}}) {
    at::manual_seed(static_cast<uint64_t>(V));
    // Few different values: many ties.
    const at::Tensor logits = at::randint(-20, 20, {5, V}).to(at::kFloat);
    const at::Tensor active = at::tensor({1, 0, 1, 1, 1}, at::kInt);
    if (V > 1000) logits[4][V - 3] = std::nanf("");
    const DeviceBuffer in(logits), on(active), out(at::full({5}, -7, at::kLong));
    ASSERT_EQ(argmax({in.as<float>(), out.as<int64_t>(), on.as<int32_t>(), 5, V}, nullptr),
              cudaSuccess);
    const at::Tensor got = out.tensor();
    for (int64_t b = 0; b < 5; ++b) {
      const float* row = logits.const_data_ptr<float>() + b * V;
      int64_t want = 0;
      for (int64_t v = 1; v < V; ++v)
        if (row[v] > row[want] || (row[v] != row[v] && row[want] == row[want])) want = v;
      EXPECT_EQ(got[b].item<int64_t>(), b == 1 ? -7 : want) << V << " row " << b;
    }
  }
}

}  // namespace
}  // namespace euromodal
