// preprocess_test.cpp — pictures and sound prepared on a GPU against the CPU's.
#include <cmath>

#include "core/rng.h"
#include "encoders/preprocess/image_transform.h"
#include "encoders/preprocess/log_mel.h"
#include "tests/cuda/ops/gpu.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::tensor_equal;
using testing_support::tensor_near;

TEST(PreprocessTest, PicturesHaveTheBitsOfTheCpu) {
  EM_ON_GPU(device);
  ImageTransform siglip = ImageTransform::siglip_defaults(), clip = ImageTransform::clip_defaults();
  siglip.height = siglip.width = 384;
  clip.shortest_edge = clip.crop_height = clip.crop_width = 224;
  for (const ImageTransform& transform : {siglip, clip}) {
    for (const auto& [height, width] : {std::pair{960, 1280}, {333, 201}}) {
      Rng rng(7);
      Image image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
      for (uint8_t& value : image.rgb) value = static_cast<uint8_t>(rng.below(256));
      const at::Tensor got = transform.apply(image, device);
      EXPECT_TRUE(got.is_cuda());
      EXPECT_TRUE(tensor_equal(got.cpu(), transform.apply(image)));
    }
  }
}

TEST(PreprocessTest, SoundIsNearTheCpus) {
  EM_ON_GPU(device);
  for (const bool pad : {true, false}) {
    LogMelConfig config;
    config.mels = 128;
    config.pad_to_window = pad;
    Pcm pcm;
    pcm.sample_rate_hz = 16000;
    for (int64_t i = 0; i < 16000 * 37; ++i)
      pcm.samples.push_back(
          static_cast<float>(0.3 * std::sin(0.02 * static_cast<double>(i * (1 + i % 7)))));
    const EncoderInput got = log_mel_windows(pcm, config, device);
    EXPECT_TRUE(got.x.is_cuda());
    EXPECT_TRUE(
        tensor_near(got.x.cpu(), log_mel_windows(pcm, config).x, {.abs = 1e-4, .rel = 0.0}));
  }
}

}  // namespace
}  // namespace euromodal
