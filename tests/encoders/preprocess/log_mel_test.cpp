// log_mel_test.cpp — log-mel against transformers' WhisperFeatureExtractor, at and around the
// length of a window; silence; windows without padding; the JSON.
#include "encoders/preprocess/log_mel.h"

#include <gtest/gtest.h>

#include "backbone/weights/safetensors.h"
#include "tests/encoders/preprocess/formulas.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::formula_sound;
using testing_support::tensor_equal;
using testing_support::tensor_near;

LogMelConfig parse(const std::string& json) {
  const Json parsed = parse_json(json, "preprocessor_config.json");
  return LogMelConfig::from_json(JsonView(parsed, "preprocessor_config.json"));
}

at::Tensor golden(const std::string& name) {
  static const SafetensorsFile file(std::filesystem::path(EM_TEST_DIR) /
                                    "goldens/log_mel.safetensors");
  return file.tensor(*file.find(name));
}

TEST(LogMelTest, FiltersMatchTransformers) {
  for (const int64_t mels : {80, 128}) {
    LogMelConfig config;
    config.mels = mels;
    const at::Tensor every_eighth = mel_filters(config).slice(0, 0, c10::nullopt, 8);
    EXPECT_TRUE(tensor_near(every_eighth, golden(fmt::format("filters.{}", mels)),
                            {.abs = 1e-8, .rel = 1e-5}));
  }
}

TEST(LogMelTest, MatchesTransformersAroundAWindow) {
  std::vector<int64_t> columns;
  for (int64_t f = 0; f < 3000; f += 211) columns.push_back(f);
  for (int64_t f = 2992; f < 3000; ++f) columns.push_back(f);
  const at::Tensor index = at::tensor(columns);
  for (const int64_t mels : {80, 128}) {
    LogMelConfig config;
    config.mels = mels;
    for (const int64_t samples : {1, 479840, 480000, 480160}) {
      const EncoderInput input = log_mel_windows(formula_sound(samples), config);
      const int64_t windows = samples > 480000 ? 2 : 1;
      ASSERT_EQ(input.x.sizes(), (at::IntArrayRef{windows, mels, 3000}));
      EXPECT_EQ(input.valid, samples);
      for (int64_t w = 0; w < windows; ++w) {
        const at::Tensor got = input.x.select(0, w).index_select(1, index);
        EXPECT_TRUE(tensor_near(got, golden(fmt::format("mel{}.{}.{}", mels, samples, w)),
                                {.abs = 1e-4, .rel = 0.0}))
            << samples;
      }
    }
  }
}

TEST(LogMelTest, SilenceIsMinusOneAndAHalf) {
  Pcm pcm;
  pcm.samples.assign(16000, 0.0f);
  const EncoderInput input = log_mel_windows(pcm, LogMelConfig{});
  EXPECT_TRUE(tensor_near(input.x, at::full({1, 80, 3000}, -1.5), {.abs = 1e-6, .rel = 0.0}));
}

TEST(LogMelTest, WithoutPaddingAWindowHasItsOwnFrames) {
  LogMelConfig config;
  config.chunk_s = 2;
  config.pad_to_window = false;
  for (const int64_t samples : {1, 319, 320, 321, 9600, 31999, 32000, 32001, 70000}) {
    const Pcm pcm = formula_sound(samples);
    const EncoderInput input = log_mel_windows(pcm, config);
    const int64_t windows = (samples + 31999) / 32000;
    ASSERT_EQ(input.x.size(0), windows);
    int64_t frames = 0;
    for (int64_t w = 0; w < windows; ++w) frames += log_mel_frames(samples, w, config);
    EXPECT_EQ(frames, (samples + 319) / 320 * 2) << samples;
    if (windows == 1) {
      EXPECT_EQ(input.x.size(2), frames);
    } else {  // the last window alone gives the same numbers
      Pcm last;
      last.samples.assign(pcm.samples.begin() + (windows - 1) * 32000, pcm.samples.end());
      const EncoderInput alone = log_mel_windows(last, config);
      const int64_t own = alone.x.size(2);
      EXPECT_TRUE(tensor_equal(input.x.select(0, windows - 1).narrow(1, 0, own), alone.x[0]));
    }
  }
}

TEST(LogMelTest, RefusesBadSoundAndConfigs) {
  EXPECT_TRUE(
      (throws_with<DataError>([] { log_mel_windows(Pcm{}, LogMelConfig{}); }, {"samples"})));
  Pcm pcm = formula_sound(100);
  pcm.sample_rate_hz = 8000;
  EXPECT_TRUE((throws_with<DataError>([&] { log_mel_windows(pcm, LogMelConfig{}); }, {"8000"})));
  const auto refuse = [](const std::string& json, const char* key) {
    return throws_with<ConfigError>([&] { parse(json); }, {"preprocessor_config.json", key});
  };
  EXPECT_TRUE(refuse("{}", "feature_size"));
  EXPECT_TRUE(refuse(R"({"feature_size": -80})", "feature_size"));
  EXPECT_TRUE(refuse(R"({"feature_size": 80, "sampling_rate": 8000})", "sampling_rate"));
  EXPECT_TRUE(refuse(R"({"feature_size": 80, "hop_length": 7})", "hop_length"));
  EXPECT_TRUE(refuse(R"({"feature_size": 80, "n_fft": 401})", "n_fft"));
  EXPECT_TRUE(refuse(R"({"feature_size": 80, "dither": 0.5})", "dither"));
  EXPECT_TRUE(
      refuse(R"({"feature_size": 80, "feature_extractor_type": "X"})", "feature_extractor"));
}

}  // namespace
}  // namespace euromodal
