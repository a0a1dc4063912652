// device_media_test.cpp — batch.transforms: device, on the stand-in for a GPU: pictures, clips'
// frames and sound are transformed there for training, augmented or not, with the CPU's values;
// neither that nor the steps on them make the host wait.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/log.h"
#include "tests/support/fake_gpu.h"
#include "tests/support/tensor_near.h"
#include "tests/training/device_run.h"

namespace euromodal {
namespace {

using testing::IsEmpty;
using testing_support::fake_gpu;
using testing_support::take_host_waits;
using testing_support::tensor_equal;
using testing_support::tensor_near;

const std::vector<std::vector<int64_t>> kSamples = {{48, 24, 0}, {49, 25}};

class DeviceMediaTest : public testing::Test {
 protected:
  DeviceMediaTest() : tiny_(dir_) {
    set_log_level(LogLevel::kError);
    tiny_.models();
  }
  ~DeviceMediaTest() override { set_log_level(LogLevel::kInfo); }

  /// The inputs of kSamples, and the samples' token plans.
  void compare(const std::vector<std::string>& changes) const {
    DeviceRun host(tiny_, "adapters", changes, at::kCPU),
        gpu(tiny_, "adapters", changes, fake_gpu());
    gpu.objective().transform_media_on(fake_gpu());
    const auto want = host.prepare(kSamples).front().batches;
    take_host_waits();
    const auto got = gpu.prepare(kSamples).front().batches;
    EXPECT_THAT(take_host_waits(), IsEmpty());
    int pictures = 0, sounds = 0;
    for (size_t b = 0; b < want.size(); ++b) {
      for (size_t s = 0; s < want[b].examples.size(); ++s) {
        const Example &w = want[b].examples[s], &g = got[b].examples[s];
        EXPECT_EQ(g.plan.ids, w.plan.ids);
        for (size_t i = 0; i < w.inputs.size(); ++i) {
          const bool picture = w.kinds[i] == Modality::kImage;
          ++(picture ? pictures : sounds);
          ASSERT_TRUE(g.inputs[i].x.is_cuda());
          EXPECT_EQ(g.inputs[i].valid, w.inputs[i].valid);
          const at::Tensor x = g.inputs[i].x.cpu();
          if (picture)
            EXPECT_TRUE(tensor_equal(x, w.inputs[i].x)) << w.id;
          else
            EXPECT_TRUE(tensor_near(x, w.inputs[i].x, {.abs = 1e-4, .rel = 0.0})) << w.id;
        }
      }
    }
    EXPECT_EQ(pictures, 2);
    EXPECT_EQ(sounds, 2);
  }
  TempDir dir_;
  TinyWorld tiny_;
};

TEST_F(DeviceMediaTest, InputsHaveTheValuesOfTheCpu) {
  compare({});
  compare({"objective.input_cache_mb=0"});
  compare(
      {"objective.augment={image: {crop: 0.7, brightness: 0.1, noise: 0.05}, audio: {time_masks: "
       "2, time_width: 5, freq_masks: 1, freq_width: 2}}"});
  compare({"objective.augment={image: {brightness: 0.1}}"});
}

TEST_F(DeviceMediaTest, StepsOnThemAreThoseOfTheCpu) {
  DeviceRun host(tiny_, "adapters", {kDeviceAdamW}, at::kCPU),
      gpu(tiny_, "adapters", {kDeviceAdamW}, fake_gpu());
  gpu.objective().transform_media_on(fake_gpu());
  for (int step = 0; step < 4; ++step) {
    host.run(host.prepare(kSamples));
    take_host_waits();
    gpu.run(gpu.prepare(kSamples));
    EXPECT_THAT(take_host_waits(), IsEmpty()) << "step " << step;
  }
  gpu.settle();
  for (size_t i = 0; i < host.outcomes.size(); ++i)
    EXPECT_NEAR(gpu.outcomes[i].loss(), host.outcomes[i].loss(), 1e-3 * host.outcomes[i].loss());
}

}  // namespace
}  // namespace euromodal
