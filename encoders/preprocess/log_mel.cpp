// log_mel.cpp — Whisper's log-mel spectrogram: FFT per frame, one matrix product with the filters.
#include "encoders/preprocess/log_mel.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include <c10/core/GradMode.h>

#include "encoders/preprocess/device_preprocess.h"

namespace euromodal {
namespace {

// Slaney's mel scale: linear below 1 kHz, logarithmic above.
double mel_from_hz(double hz) {
  return hz < 1000.0 ? 3.0 * hz / 200.0 : 15.0 + 27.0 * std::log(hz / 1000.0) / std::log(6.4);
}
double mel_to_hz(double mel) {
  return mel < 15.0 ? 200.0 * mel / 3.0 : 1000.0 * std::exp(std::log(6.4) * (mel - 15.0) / 27.0);
}

// What does not depend on the sound; built once per shape, shared by all threads.
struct MelTables {
  at::Tensor window_N;    // [n_fft] f32, periodic Hann
  at::Tensor filters_KM;  // [n_fft / 2 + 1, M] f32
};

const MelTables& mel_tables(const LogMelConfig& config) {
  static std::mutex mutex;
  static std::map<std::tuple<int64_t, int64_t, int64_t>, MelTables> tables;
  const std::lock_guard lock(mutex);
  MelTables& entry = tables[{config.n_fft, config.mels, config.sample_rate_hz}];
  if (!entry.window_N.defined())
    entry = {at::hann_window(config.n_fft, at::kFloat), mel_filters(config)};
  return entry;
}

int64_t mel_round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace

LogMelConfig LogMelConfig::from_json(const JsonView& json) {
  LogMelConfig out;
  const std::string type = json.str("feature_extractor_type", "WhisperFeatureExtractor");
  check<ConfigError>(type == "WhisperFeatureExtractor",
                     "{}: feature_extractor_type: got {}, expected WhisperFeatureExtractor",
                     json.what(), type);
  out.mels = json.positive("feature_size");
  out.sample_rate_hz = json.i64("sampling_rate", 16000);
  check<ConfigError>(out.sample_rate_hz == 16000, "{}: sampling_rate: got {}, expected 16000",
                     json.what(), out.sample_rate_hz);
  out.n_fft = json.has("n_fft") ? json.positive("n_fft") : 400;
  out.hop = json.has("hop_length") ? json.positive("hop_length") : 160;
  out.chunk_s = json.has("chunk_length") ? json.positive("chunk_length") : 30;
  out.normalize = json.boolean("do_normalize", false);
  out.pad_to_window = json.boolean("pad_to_window", true);
  check<ConfigError>(out.mels <= 1024 && out.n_fft <= 65536 && out.n_fft % 2 == 0,
                     "{}: feature_size {} and n_fft {}: at most 1024, and even and at most 65536",
                     json.what(), out.mels, out.n_fft);
  check<ConfigError>(out.chunk_s <= 3600, "{}: chunk_length: got {} s, at most 3600", json.what(),
                     out.chunk_s);
  check<ConfigError>(out.window_samples() % (2 * out.hop) == 0 && 2 * out.hop > out.n_fft / 2,
                     "{}: hop_length {}: a window of {} samples must hold whole pairs of hops, and "
                     "two hops more than half of n_fft {}",
                     json.what(), out.hop, out.window_samples(), out.n_fft);
  check<ConfigError>(json.f64("dither", 0.0) == 0.0, "{}: dither: only 0 is possible", json.what());
  check<ConfigError>(json.f64("padding_value", 0.0) == 0.0, "{}: padding_value: only 0 is possible",
                     json.what());
  return out;
}

at::Tensor mel_filters(const LogMelConfig& config) {
  const int64_t bins = config.n_fft / 2 + 1;
  const double nyquist = static_cast<double>(config.sample_rate_hz) / 2.0;
  std::vector<double> hz(static_cast<size_t>(config.mels) + 2);
  const double top = mel_from_hz(nyquist);
  for (size_t i = 0; i < hz.size(); ++i)
    hz[i] = mel_to_hz(top * static_cast<double>(i) / static_cast<double>(config.mels + 1));
  at::Tensor filters_KM = at::zeros({bins, config.mels}, at::kFloat);
  float* out = filters_KM.data_ptr<float>();
  for (int64_t k = 0; k < bins; ++k) {
    const double f = nyquist * static_cast<double>(k) / static_cast<double>(bins - 1);
    for (int64_t m = 0; m < config.mels; ++m) {
      const double rise = (f - hz[m]) / (hz[m + 1] - hz[m]);
      const double fall = (hz[m + 2] - f) / (hz[m + 2] - hz[m + 1]);
      const double area = 2.0 / (hz[m + 2] - hz[m]);  // slaney norm: equal area
      out[k * config.mels + m] = static_cast<float>(std::max(0.0, std::min(rise, fall)) * area);
    }
  }
  return filters_KM;
}

at::Tensor log_mel(const at::Tensor& samples_S, const LogMelConfig& config) {
  const MelTables& tables = mel_tables(config);
  const int64_t half = config.n_fft / 2;
  const int64_t frames = samples_S.size(0) / config.hop;
  const at::Tensor padded_P = at::reflection_pad1d(samples_S.unsqueeze(0), {half, half}).squeeze(0);
  const at::Tensor frames_FN = padded_P.unfold(0, config.n_fft, config.hop).narrow(0, 0, frames);
  const at::Tensor spectrum_FK = at::fft_rfft(frames_FN * tables.window_N);
  const at::Tensor parts_FK2 = at::view_as_real(spectrum_FK);
  const at::Tensor power_FK = parts_FK2.square().sum(-1);
  const at::Tensor log_FM = at::matmul(power_FK, tables.filters_KM).clamp_min_(1e-10).log10_();
  const at::Tensor clamped_FM = at::maximum(log_FM, log_FM.max() - 8.0);
  return clamped_FM.add_(4.0).div_(4.0).t().contiguous();
}

int64_t log_mel_frames(int64_t samples, int64_t window, const LogMelConfig& config) {
  if (config.pad_to_window) return config.window_frames();
  const int64_t own = samples - window * config.window_samples();
  return std::min(config.window_frames(), mel_round_up(own, 2 * config.hop) / config.hop);
}

void check_sound(const Pcm& pcm, const LogMelConfig& config) {
  check<DataError>(!pcm.samples.empty(), "sound without samples");
  check<DataError>(pcm.sample_rate_hz == config.sample_rate_hz,
                   "sound of {} Hz, the encoder takes {} Hz", pcm.sample_rate_hz,
                   config.sample_rate_hz);
}

at::Tensor log_mel_samples(const Pcm& pcm, int64_t window, const LogMelConfig& config) {
  const auto samples = static_cast<int64_t>(pcm.samples.size());
  const int64_t begin = window * config.window_samples();
  const int64_t real = std::min(config.window_samples(), samples - begin);
  at::Tensor samples_S =
      at::zeros({log_mel_frames(samples, window, config) * config.hop}, at::kFloat);
  std::copy_n(pcm.samples.data() + begin, real, samples_S.data_ptr<float>());
  if (config.normalize) {
    at::Tensor real_S = samples_S.narrow(0, 0, real);
    const at::Tensor mean = real_S.mean();
    const at::Tensor var = real_S.var(/*unbiased=*/false);
    real_S.sub_(mean).div_((var + 1e-7).sqrt());
  }
  return samples_S;
}

EncoderInput log_mel_windows(const Pcm& pcm, const LogMelConfig& config, at::Device device) {
  if (device.is_cuda() && log_mel_fits_device(config))
    return log_mel_on_device(pcm, config, device);
  check_sound(pcm, config);
  const c10::NoGradGuard no_grad;
  const auto samples = static_cast<int64_t>(pcm.samples.size());
  const int64_t windows = (samples + config.window_samples() - 1) / config.window_samples();
  const int64_t width = log_mel_frames(samples, 0, config);
  at::Tensor x_WMF = at::zeros({windows, config.mels, width}, at::kFloat);
  for (int64_t w = 0; w < windows; ++w) {
    const int64_t frames = log_mel_frames(samples, w, config);
    x_WMF.select(0, w).narrow(1, 0, frames).copy_(log_mel(log_mel_samples(pcm, w, config), config));
  }
  return {x_WMF, samples};
}

}  // namespace euromodal
