// device_preprocess_test.cpp — pictures and sound through the functions that `--device cuda` takes,
// over the emulated kernels, against those of the CPU: sizes, crops and filters to the last bit,
// sounds of one window, of several, and windows that keep their own frames.
#include "encoders/preprocess/device_preprocess.h"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/cuda/media_launch.h"
#include "core/error.h"
#include "core/rng.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::tensor_equal;
using testing_support::tensor_near;

int launches = 0;

class DevicePreprocessTest : public testing::Test {
 protected:
  void SetUp() override {
    static const CudaOps ops = [] {
      CudaOps out;
      out.image_transform = [](const ImageTransformJob& job) {
        ++launches;
        EXPECT_EQ(launch_image_transform(job, nullptr), cudaSuccess);
      };
      out.log_mel = [](const LogMelJob& job) {
        ++launches;
        EXPECT_EQ(launch_log_mel(job, nullptr), cudaSuccess);
      };
      return out;
    }();
    set_cuda_ops(&ops);
    launches = 0;
  }
  void TearDown() override { set_cuda_ops(nullptr); }
};

Image picture(int64_t height, int64_t width) {
  Rng rng(static_cast<uint64_t>(height * 1009 + width));
  Image out{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  for (uint8_t& value : out.rgb) value = static_cast<uint8_t>(rng.below(256));
  return out;
}

TEST_F(DevicePreprocessTest, PicturesAreThoseOfTheCpu) {
  ImageTransform siglip = ImageTransform::siglip_defaults(), clip = ImageTransform::clip_defaults();
  siglip.height = siglip.width = 24;
  clip.shortest_edge = 20;
  clip.crop_height = clip.crop_width = 18;
  ImageTransform around = clip, untouched = siglip;
  around.crop_height = 26;  // wider than the picture: black around it
  untouched.do_resize = false;
  for (const ImageTransform& transform : {siglip, clip, around, untouched}) {
    for (const auto& [height, width] : {std::pair{31, 47}, {64, 20}, {7, 9}}) {
      const Image image = picture(height, width);
      EXPECT_TRUE(
          tensor_equal(transform_on_device(transform, image, at::kCPU), transform.apply(image)))
          << height << " x " << width;
    }
  }
  EXPECT_EQ(launches, 12);
  EXPECT_THROW(transform_on_device(siglip, Image{4, 4, {1, 2}}, at::kCPU), DataError);
}

TEST_F(DevicePreprocessTest, SoundsAreThoseOfTheCpu) {
  LogMelConfig config;
  config.chunk_s = 1;
  for (const bool pad : {true, false}) {
    for (const bool normalize : {true, false}) {
      config.pad_to_window = pad;
      config.normalize = normalize;
      for (const int64_t samples : {500, 9000, 16000, 2 * 16000 + 4000}) {
        SCOPED_TRACE(fmt::format("{} samples, pad {} normalize {}", samples, pad, normalize));
        Pcm pcm;
        pcm.sample_rate_hz = 16000;
        for (int64_t i = 0; i < samples; ++i) {
          const auto t = static_cast<double>(i) / 16000.0;
          pcm.samples.push_back(static_cast<float>(0.3 * std::sin(2000.0 * (1.0 + t) * t) +
                                                   0.02 * std::sin(9000.0 * t)));
        }
        launches = 0;
        const EncoderInput want = log_mel_windows(pcm, config),
                           got = log_mel_on_device(pcm, config, at::kCPU);
        EXPECT_EQ(got.valid, want.valid);
        EXPECT_TRUE(tensor_near(got.x, want.x, {.abs = 1e-4, .rel = 0.0}));
        EXPECT_EQ(launches, !pad && samples > 32000 ? 2 : 1);
      }
    }
  }
  Pcm empty;
  empty.sample_rate_hz = 16000;
  EXPECT_THROW(log_mel_on_device(empty, config, at::kCPU), DataError);
  config.n_fft = 2048;
  EXPECT_FALSE(log_mel_fits_device(config));
}

}  // namespace
}  // namespace euromodal
