// log_mel_test.cpp — the log-mel spectrogram of the device against log_mel() of the host:
// speech-like sound, a pure tone (whose quiet bins show the transform's own noise), silence, single
// samples; 80 and 128 mel bins, several windows at once, other transforms, and twice the same bits.
#include "encoders/preprocess/log_mel.h"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/log_mel/dft_table.h"
#include "backbone/kernels/log_mel/log_mel_kernel.h"
#include "tests/support/device_buffer.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::small_sizes;
using testing_support::tensor_near;

LogMelArgs args_of(const LogMelConfig& config, int64_t windows, int64_t samples) {
  LogMelArgs args{};
  args.windows = windows;
  args.samples = samples;
  args.points = config.n_fft;
  args.hop = config.hop;
  args.mels = config.mels;
  return args;
}

at::Tensor device_log_mel(const at::Tensor& samples_WS, const LogMelConfig& config) {
  const int64_t W = samples_WS.size(0), S = samples_WS.size(1);
  const DeviceBuffer samples(samples_WS), window(at::hann_window(config.n_fft, at::kFloat)),
      dft(at::tensor(dft_table(config.n_fft))), filters(mel_filters(config)),
      highest = DeviceBuffer::poisoned({W}, at::kInt),
      x = DeviceBuffer::poisoned({W, config.mels, S / config.hop}, at::kFloat);
  LogMelArgs args = args_of(config, W, S);
  args.samples_WS = samples.as<float>();
  args.window_N = window.as<float>();
  args.dft_KK2 = dft.as<float>();
  args.filters_KM = filters.as<float>();
  args.x_WMF = x.as<float>();
  args.highest_W = highest.as<uint32_t>();
  EXPECT_EQ(log_mel(args, nullptr), cudaSuccess);
  return x.tensor();
}

void expect_near(const at::Tensor& samples_WS, const LogMelConfig& config) {
  const at::Tensor got = device_log_mel(samples_WS, config);
  for (int64_t w = 0; w < samples_WS.size(0); ++w) {
    SCOPED_TRACE(fmt::format("window {}", w));
    EXPECT_TRUE(tensor_near(got[w], log_mel(samples_WS[w], config), {.abs = 1e-4, .rel = 0.0}));
  }
  EXPECT_TRUE(device_log_mel(samples_WS, config).equal(got));
}

// Noise whose loudness changes, a gliding tone above it.
at::Tensor sound(int64_t samples) {
  at::manual_seed(static_cast<uint64_t>(samples));
  const at::Tensor t = at::arange(samples, at::kDouble) / 16000.0;
  return (0.3 * (2.0 * M_PI * (200.0 + 900.0 * t) * t).sin() +
          0.05 * at::randn({samples}, at::kDouble) * (7.0 * t).sin().square())
      .to(at::kFloat);
}

TEST(LogMelKernelTest, MatchesTheHost) {
  EM_NEEDS_GPU();
  std::vector<int64_t> lengths{320, 1600, 160 * 37};
  if (!small_sizes()) lengths.push_back(480000);
  for (const int64_t mels : {80, 128}) {
    LogMelConfig config;
    config.mels = mels;
    for (const int64_t samples : lengths) {
      SCOPED_TRACE(fmt::format("{} samples, {} mels", samples, mels));
      const at::Tensor t = at::arange(samples, at::kFloat) / 16000.0;
      const at::Tensor tone = (2.0 * M_PI * 1000.0 * t).sin(), silence = at::zeros({samples});
      at::Tensor click = at::zeros({samples});
      click[samples / 3].fill_(1.0);
      expect_near(at::stack({sound(samples), tone, silence, click}), config);
    }
  }
}

TEST(LogMelKernelTest, OtherTransforms) {
  EM_NEEDS_GPU();
  for (const auto& [points, hop, mels] :
       std::vector<std::array<int64_t, 3>>{{512, 128, 40}, {1024, 320, 300}, {64, 33, 1}}) {
    SCOPED_TRACE(fmt::format("{} points", points));
    LogMelConfig config;
    config.n_fft = points;
    config.hop = hop;
    config.mels = mels;
    expect_near(sound(hop * 19).unsqueeze(0), config);
  }
}

TEST(LogMelKernelTest, SizesThatItRefuses) {
  EM_NEEDS_GPU();
  const LogMelConfig config;
  EXPECT_EQ(log_mel(args_of(config, 0, 1600), nullptr), cudaSuccess);  // no windows
  EXPECT_EQ(log_mel(args_of(config, 1, 1601), nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(log_mel(args_of(config, 1, 160), nullptr), cudaErrorInvalidValue);
  LogMelConfig large = config;
  large.n_fft = 2048;
  EXPECT_EQ(log_mel(args_of(large, 1, 16000), nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace euromodal
