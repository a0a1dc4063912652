// augment_test.cpp — masks cover what they may, and everything follows from the Rng alone.
#include "encoders/preprocess/augment.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

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
