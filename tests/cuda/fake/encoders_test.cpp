// encoders_test.cpp — the encoders on the stand-in for a GPU against the CPU's
// (tests/cuda/encoders_on_device.h).
#include "tests/cuda/encoders_on_device.h"
#include "tests/support/fake_gpu.h"

namespace euromodal {
namespace {

TEST(EncodersOnDeviceTest, GiveWhatTheCpuGives) {
  // In bf16 attention is LibTorch's flash attention, which only a GPU has.
  testing_support::expect_encoders_of_the_cpu(at::kFloat, testing_support::fake_gpu());
}

}  // namespace
}  // namespace euromodal
