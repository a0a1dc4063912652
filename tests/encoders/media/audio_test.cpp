// audio_test.cpp — sound of several containers, rates, depths and channel counts, whole and cut;
// and what is refused.
#include <algorithm>
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "backbone/weights/safetensors.h"
#include "encoders/media/media.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

MediaSource file_source(const std::filesystem::path& path) {
  MediaSource source;
  source.name = path.string();
  return source;
}
MediaSource data_source(const std::string& name) {
  return file_source(std::filesystem::path(EM_TEST_DIR) / "data" / name);
}
MediaSource memory_source(const std::string& name, std::string_view bytes) {
  MediaSource source;
  source.name = name;
  source.bytes = bytes;
  source.in_memory = true;
  return source;
}

struct WavShape {
  int rate = 16000;
  int channels = 1;
  int bits = 16;         // 8, 16, 24 or 32; 33 stands for 32-bit floats
  uint32_t claimed = 0;  // data bytes in the header; 0: the true number
};

// A WAV file whose channel c holds value(i, c) in [-1, 1).
template <typename F>
std::string wav_bytes(int64_t samples, const WavShape& shape, F value) {
  const bool real = shape.bits == 33;
  const int bytes = real ? 4 : shape.bits / 8;
  std::string data;
  for (int64_t i = 0; i < samples; ++i) {
    for (int c = 0; c < shape.channels; ++c) {
      const double v = value(i, c);
      if (real) {
        const auto f = static_cast<float>(v);
        data.append(reinterpret_cast<const char*>(&f), 4);
        continue;
      }
      auto n = static_cast<int64_t>(std::llround(v * std::pow(2.0, shape.bits - 1)));
      if (bytes == 1) n += 128;
      for (int b = 0; b < bytes; ++b) data.push_back(static_cast<char>(n >> (8 * b) & 0xFF));
    }
  }
  const auto number = [](uint64_t v, int count) {
    std::string out;
    for (int b = 0; b < count; ++b) out.push_back(static_cast<char>(v >> (8 * b) & 0xFF));
    return out;
  };
  const uint64_t claimed = shape.claimed != 0 ? shape.claimed : data.size();
  const auto block = static_cast<uint64_t>(bytes * shape.channels);
  return "RIFF" + number(std::min<uint64_t>(36 + claimed, 0xFFFFFFFF), 4) + "WAVEfmt " +
         number(16, 4) + number(real ? 3 : 1, 2) +
         number(static_cast<uint64_t>(shape.channels), 2) +
         number(static_cast<uint64_t>(shape.rate), 4) + number(shape.rate * block, 4) +
         number(block, 2) + number(static_cast<uint64_t>(bytes * 8), 2) + "data" +
         number(claimed, 4) + data;
}

double tone(double t, double hz) { return 0.5 * std::sin(2 * M_PI * hz * t); }

TEST(AudioTest, ReadsEverySampleOfFlac) {
  const SafetensorsFile expected(std::filesystem::path(EM_TEST_DIR) / "data/expected.safetensors");
  const at::Tensor want = expected.tensor(*expected.find("tone"));
  const Pcm pcm = media_reader().read_audio(data_source("tone.flac"));
  ASSERT_EQ(static_cast<int64_t>(pcm.samples.size()), want.numel());
  EXPECT_EQ(std::memcmp(pcm.samples.data(), want.data_ptr<float>(), pcm.samples.size() * 4), 0);
}

TEST(AudioTest, LossyFormatsAreCloseAndOfTheSameLength) {
  const SafetensorsFile expected(std::filesystem::path(EM_TEST_DIR) / "data/expected.safetensors");
  const at::Tensor want = expected.tensor(*expected.find("tone"));
  for (const char* name : {"tone.mp3", "tone.ogg", "tone.opus"}) {
    const Pcm pcm = media_reader().read_audio(data_source(name));
    EXPECT_NEAR(static_cast<double>(pcm.samples.size()), 4000.0, 1200.0) << name;
    double error = 0.0, power = 0.0;
    for (int64_t i = 400; i < 3000; ++i) {
      const double w = want.data_ptr<float>()[i];
      error += std::pow(pcm.samples[static_cast<size_t>(i)] - w, 2);
      power += w * w;
    }
    EXPECT_LT(error / power, 0.02) << name;
  }
}

TEST(AudioTest, EveryDepthGivesTheSameSound) {
  for (const int bits : {8, 16, 24, 32, 33}) {
    const auto value = [](int64_t i, int) { return static_cast<double>((i * 37) % 101 - 50) / 64; };
    const std::string wav = wav_bytes(500, {.bits = bits}, value);
    const Pcm pcm = media_reader().read_audio(memory_source("x.wav", wav));
    ASSERT_EQ(pcm.samples.size(), 500u) << bits;
    for (int64_t i = 0; i < 500; ++i)
      ASSERT_FLOAT_EQ(pcm.samples[static_cast<size_t>(i)], static_cast<float>(value(i, 0))) << bits;
  }
}

TEST(AudioTest, ChannelsAreAveraged) {
  const std::string wav =
      wav_bytes(300, {.channels = 3}, [](int64_t i, int c) { return (c + 1) * i / 2048.0; });
  const Pcm pcm = media_reader().read_audio(memory_source("x.wav", wav));
  ASSERT_EQ(pcm.samples.size(), 300u);
  for (size_t i = 0; i < 300; ++i)
    ASSERT_NEAR(pcm.samples[i], 2.0 * static_cast<double>(i) / 2048.0, 1e-6);
}

TEST(AudioTest, ResamplesToExactlyCeilOfTheLength) {
  for (const int rate : {8000, 11025, 22050, 24000, 44100, 48000}) {
    for (const int64_t samples : {int64_t{rate / 3}, int64_t{rate}}) {
      const std::string wav = wav_bytes(samples, {.rate = rate}, [&](int64_t i, int) {
        return tone(static_cast<double>(i) / rate, 700.0);
      });
      const Pcm pcm = media_reader().read_audio(memory_source("x.wav", wav));
      const int64_t want = (samples * 16000 + rate - 1) / rate;
      ASSERT_EQ(static_cast<int64_t>(pcm.samples.size()), want) << rate;
      for (int64_t i = 300; i < want - 300; ++i)
        ASSERT_NEAR(pcm.samples[static_cast<size_t>(i)], tone(static_cast<double>(i) / 16000, 700),
                    2e-4)
            << rate << " " << i;
    }
  }
}

TEST(AudioTest, CutsAtSamples) {
  const std::string wav =
      wav_bytes(16000, {}, [](int64_t i, int) { return static_cast<double>(i) / 32768; });
  const Pcm pcm = media_reader().read_audio(memory_source("x.wav", wav), 0.25, 0.5);
  ASSERT_EQ(pcm.samples.size(), 4000u);
  EXPECT_FLOAT_EQ(pcm.samples.front(), 4000.0f / 32768);
  EXPECT_FLOAT_EQ(pcm.samples.back(), 7999.0f / 32768);
  EXPECT_TRUE((throws_with<DataError>(
      [&] { media_reader().read_audio(memory_source("x.wav", wav), 1.5); }, {"x.wav", "1.5"})));
}

TEST(AudioTest, TakesTheSoundOfAVideo) {
  const Pcm pcm = media_reader().read_audio(data_source("clip.mp4"));
  EXPECT_NEAR(static_cast<double>(pcm.samples.size()), 32000.0, 1100.0);
  double power = 0.0;
  for (size_t i = 4000; i < 20000; ++i) power += pcm.samples[i] * pcm.samples[i];
  EXPECT_GT(power / 16000, 1e-3);
}

TEST(AudioTest, StreamedWavOfUnknownLengthIsWhole) {
  for (const uint32_t claimed : {0xFFFFFFFFu, 0x7FFFF000u}) {
    const std::string wav = wav_bytes(777, {.claimed = claimed}, [](int64_t, int) { return 0.25; });
    EXPECT_EQ(media_reader().read_audio(memory_source("espeak.wav", wav)).samples.size(), 777u);
  }
}

TEST(AudioTest, RefusesWhatIsNoSound) {
  const MediaReader& reader = media_reader();
  const TempDir dir;
  const auto refuse = [&](const MediaSource& source, const char* word) {
    return throws_with<DataError>([&] { reader.read_audio(source); }, {source.name, word});
  };
  EXPECT_TRUE(refuse(file_source(dir / "absent.wav"), "no such file"));
  EXPECT_TRUE(refuse(file_source(dir.path()), "not a regular file"));
  EXPECT_TRUE(refuse(file_source(dir.write("empty.wav", "")), "empty"));
  EXPECT_TRUE(refuse(memory_source("shard.tar:a.wav", ""), "empty"));
  EXPECT_TRUE(refuse(file_source(dir.write("text.wav", "no sound at all\n")), "cannot be read"));
  EXPECT_TRUE(refuse(data_source("silent.mp4"), "no sound track"));
  EXPECT_TRUE(refuse(data_source("rgb.png"), "sound"));
  const std::string none = wav_bytes(0, {}, [](int64_t, int) { return 0.0; });
  EXPECT_TRUE(refuse(memory_source("none.wav", none), "none.wav"));
  const std::string nan =
      wav_bytes(10, {.bits = 33}, [](int64_t i, int) { return i == 4 ? NAN : 0.0; });
  EXPECT_TRUE(refuse(memory_source("nan.wav", nan), "finite"));
}

TEST(AudioTest, RefusesTruncatedSound) {
  const std::string wav = wav_bytes(16000, {}, [](int64_t, int) { return 0.1; });
  const std::string flac = read_bytes(std::filesystem::path(EM_TEST_DIR) / "data/tone.flac");
  const std::string mp4 = read_bytes(std::filesystem::path(EM_TEST_DIR) / "data/clip.mp4");
  const auto refuse = [](const std::string& name, const std::string& bytes, size_t keep) {
    return throws_with<DataError>(
        [&] { media_reader().read_audio(memory_source(name, bytes.substr(0, keep))); }, {name});
  };
  EXPECT_TRUE(refuse("half.wav", wav, wav.size() / 2 + 1));
  EXPECT_TRUE(refuse("half.flac", flac, flac.size() / 2));
  EXPECT_TRUE(refuse("half.mp4", mp4, mp4.size() / 2));
}

}  // namespace
}  // namespace euromodal
