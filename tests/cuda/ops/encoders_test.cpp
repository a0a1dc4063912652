// encoders_test.cpp — the encoders on a GPU against the CPU's (tests/cuda/encoders_on_device.h).
#include "tests/cuda/encoders_on_device.h"
#include "tests/cuda/ops/gpu.h"

namespace euromodal {
namespace {

TEST(EncodersOnGpuTest, GiveWhatTheCpuGives) {
  EM_ON_GPU(device);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    testing_support::expect_encoders_of_the_cpu(dtype, device);
}

}  // namespace
}  // namespace euromodal
