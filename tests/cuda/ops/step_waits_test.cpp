// step_waits_test.cpp — training steps on a GPU (text, stored features of pictures, LoRA, an
// adapter; guard, clipping, average) while LibTorch makes every wait of the host for a stream an
// error (torch.cuda.set_sync_debug_mode), and what they compute against the CPU.
// tests/cuda/fake/step_waits_test.cpp is the same without a GPU, with more kinds of runs.
#include <dlfcn.h>

#include "core/log.h"
#include "tests/cuda/ops/gpu.h"
#include "tests/support/tensor_near.h"
#include "tests/training/device_run.h"

namespace euromodal {
namespace {

using testing_support::tensor_near;

/// While it lives a wait throws. The state is a static of an inline function in
/// c10/cuda/CUDAFunctions.h: one number, 0 disabled, 1 warn, 2 error.
class NoWaits {
 public:
  NoWaits()
      : mode_(static_cast<int*>(
            ::dlsym(RTLD_DEFAULT, "_ZZN3c104cuda13warning_stateEvE14warning_state_"))) {
    check(mode_ != nullptr, "libc10_cuda does not show the state of its sync debug mode");
    *mode_ = 2;
  }
  ~NoWaits() {
    if (mode_ != nullptr) *mode_ = 0;
  }

 private:
  int* mode_;
};

TEST(StepWaitsOnGpuTest, NoStepWaitsForAStream) {
  EM_ON_GPU(device);
  set_log_level(LogLevel::kError);
  const TempDir dir;
  const TinyWorld tiny(dir);
  const std::vector<std::string> changes = without_media(tiny);
  DeviceRun host(tiny, "adapters", changes, at::kCPU), gpu(tiny, "adapters", changes, device);
  const std::vector<std::vector<int64_t>> samples = {{0, 1, 9}, {2, 14}};
  const auto host_batch = host.prepare(samples), gpu_batch = gpu.prepare(samples);
  gpu.run(gpu_batch);  // what is allocated once, kernels that are loaded
  host.run(host_batch);
  for (int step = 1; step < 8; ++step) {
    host.run(host_batch);
    const NoWaits none;
    ASSERT_NO_THROW(gpu.run(gpu_batch)) << "step " << step;
  }
  const at::Tensor one = at::ones({1}, device);
  {
    const NoWaits none;
    EXPECT_ANY_THROW(static_cast<void>(one.item<float>())) << "a number that is read is noticed";
  }
  gpu.settle();
  ASSERT_EQ(gpu.outcomes.size(), host.outcomes.size());
  for (size_t i = 0; i < host.outcomes.size(); ++i) {
    EXPECT_NEAR(gpu.outcomes[i].loss(), host.outcomes[i].loss(), 1e-3 * host.outcomes[i].loss());
    EXPECT_EQ(gpu.outcomes[i].figures.verdict, host.outcomes[i].figures.verdict);
  }
  const std::vector<NamedTensor> want = host.values(), got = gpu.values();
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_TRUE(tensor_near(got[i].tensor, want[i].tensor, {.abs = 5e-3, .rel = 5e-3}))
        << want[i].name;
  set_log_level(LogLevel::kInfo);
}

}  // namespace
}  // namespace euromodal
