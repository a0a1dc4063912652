// augment_test.cpp — masks cover what they may, and everything follows from the Rng alone.
#include "encoders/preprocess/augment.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::tensor_equal;

EncoderInput ramp(int64_t mels, int64_t frames) {
  return {at::arange(mels * frames, at::kFloat).view({1, mels, frames}), frames * 160};
}

TEST(SpecAugmentTest, MasksBandsOfAtMostTheirWidth) {
  const EncoderInput input = ramp(20, 50);
  bool changed = false;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const EncoderInput out = spec_augment(input, {.time_masks = 1, .time_width = 8}, Rng(seed));
    const at::Tensor masked = out.x.ne(input.x).any(1).squeeze(0);  // per frame
    const int64_t count = masked.sum().item<int64_t>();
    EXPECT_LE(count, 8);
    changed = changed || count > 0;
    EXPECT_TRUE(tensor_equal(input.x, ramp(20, 50).x));  // the input is untouched
  }
  EXPECT_TRUE(changed);
}

TEST(SpecAugmentTest, DependsOnTheSeedAlone) {
  const SpecAugment config{.time_masks = 2, .time_width = 8, .freq_masks = 2, .freq_width = 10};
  const EncoderInput input = ramp(80, 60);
  EXPECT_TRUE(
      tensor_equal(spec_augment(input, config, Rng(7)).x, spec_augment(input, config, Rng(7)).x));
  EXPECT_FALSE(spec_augment(input, config, Rng(7)).x.equal(spec_augment(input, config, Rng(8)).x));
}

TEST(SpecAugmentTest, LeavesPaddingAlone) {
  EncoderInput input = ramp(8, 100);
  input.valid = 10 * 160;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const EncoderInput out = spec_augment(input, {.time_masks = 3, .time_width = 20}, Rng(seed));
    EXPECT_TRUE(tensor_equal(out.x.narrow(2, 10, 90), input.x.narrow(2, 10, 90)));
  }
}

TEST(RandomCropTest, KeepsAPartOfThePictureOfAtLeastTheShareAsked) {
  Image image{20, 30, {}};
  for (int64_t y = 0; y < 20; ++y) {
    for (int64_t x = 0; x < 30; ++x)
      image.rgb.insert(image.rgb.end(), {static_cast<uint8_t>(y), static_cast<uint8_t>(x), 7});
  }
  bool smaller = false;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const Image out = random_crop(image, 0.25, Rng(seed));
    ASSERT_EQ(static_cast<int64_t>(out.rgb.size()), out.height * out.width * 3);
    EXPECT_GE(out.height, 10);
    EXPECT_GE(out.width, 15);
    EXPECT_LE(out.height, 20);
    const uint8_t top = out.rgb[0], left = out.rgb[1];
    EXPECT_EQ(out.rgb[out.rgb.size() - 3], top + out.height - 1);  // one whole rectangle of it
    EXPECT_EQ(out.rgb[out.rgb.size() - 2], left + out.width - 1);
    smaller = smaller || out.height < 20;
  }
  EXPECT_TRUE(smaller);
  EXPECT_EQ(random_crop(image, 1.0, Rng(1)).rgb, image.rgb);
  EXPECT_EQ(random_crop(image, 0.3, Rng(5)).rgb, random_crop(image, 0.3, Rng(5)).rgb);
  EXPECT_THROW(random_crop(image, 0.0, Rng(1)), ConfigError);
}

TEST(RandomCropTest, CutsEveryFrameOfAClipAlike) {
  Clip clip{3, 8, 8, {}, {0.0, 0.1, 0.2}};
  for (int64_t i = 0; i < 3 * 64; ++i)
    clip.rgb.insert(clip.rgb.end(),
                    {static_cast<uint8_t>(i % 64), static_cast<uint8_t>(i / 64), 0});
  const Clip out = random_crop(clip, 0.2, Rng(4));
  EXPECT_EQ(out.pts_s, clip.pts_s);
  const int64_t frame = out.height * out.width * 3;
  ASSERT_EQ(static_cast<int64_t>(out.rgb.size()), 3 * frame);
  for (int64_t f = 0; f < 3; ++f) {
    EXPECT_EQ(out.rgb[f * frame], out.rgb[0]);
    EXPECT_EQ(out.rgb[f * frame + 1], f);
  }
}

TEST(ImageAugmentTest, AddsOneShiftAndNoise) {
  const EncoderInput input{at::zeros({1, 3, 32, 32}), 0};
  const at::Tensor shift = image_augment(input, {.brightness = 0.2}, Rng(3)).x;
  EXPECT_LE(shift.abs().max().item<float>(), 0.2f);
  EXPECT_EQ(shift.max().item<float>(), shift.min().item<float>());
  const at::Tensor noise = image_augment(input, {.noise = 0.05}, Rng(3)).x;
  EXPECT_NEAR(noise.std().item<float>(), 0.05f, 0.005f);
  EXPECT_NEAR(noise.mean().item<float>(), 0.0f, 0.005f);
}

}  // namespace
}  // namespace euromodal
