// log_mel.h — Whisper's log-mel spectrogram. Reference: transformers WhisperFeatureExtractor (torch
// path). S samples, M mel bins, F frames, W windows.
#pragma once
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "core/json.h"
#include "encoders/media/media.h"
#include "encoders/preprocess/preprocess.h"

namespace euromodal {

struct LogMelConfig {
  int64_t sample_rate_hz = 16000;
  int64_t n_fft = 400;
  int64_t hop = 160;
  int64_t mels = 80;
  int64_t chunk_s = 30;       // length of a window
  bool normalize = false;     // zero mean and unit variance of the real samples first
  bool pad_to_window = true;  // false: a window that the sound does not fill keeps its own frames
  int64_t window_samples() const { return chunk_s * sample_rate_hz; }
  int64_t window_frames() const { return window_samples() / hop; }

  /// preprocessor_config.json of a WhisperFeatureExtractor, plus our own optional key
  /// `pad_to_window`. ConfigError naming file and key.
  static LogMelConfig from_json(const JsonView& json);
};

/// samples_S [S] f32, S a multiple of hop and above n_fft / 2 -> [M, S / hop] f32: power spectrum
/// (periodic Hann, centred, reflected edges, last frame dropped), slaney mel filters, log10,
/// clamped to 8 below the maximum of the whole array, (x + 4) / 4. Thread safe.
at::Tensor log_mel(const at::Tensor& samples_S, const LogMelConfig& config);

/// Filterbank [n_fft / 2 + 1, M] f32 (slaney scale and norm, 0 Hz to half the sample rate).
at::Tensor mel_filters(const LogMelConfig& config);

/// Frames of window w that belong to a sound of `samples`: all of them with pad_to_window, else its
/// samples rounded up to two hops.
int64_t log_mel_frames(int64_t samples, int64_t window, const LogMelConfig& config);

/// A sound as consecutive windows: x [W, M, F] f32, valid = S. Each window has its own maximum. F
/// is window_frames(), or less when pad_to_window is off and one window holds the whole sound;
/// frames beyond log_mel_frames() are zero. Made by the kernels of `device` where it is a GPU
/// (n_fft up to 1024; else here). Errors as check_sound().
EncoderInput log_mel_windows(const Pcm& pcm, const LogMelConfig& config,
                             at::Device device = at::kCPU);

/// DataError: no samples, other sample rate.
void check_sound(const Pcm& pcm, const LogMelConfig& config);
/// The samples of window w, normalised where the config says so, zeros behind them: [S] f32.
at::Tensor log_mel_samples(const Pcm& pcm, int64_t window, const LogMelConfig& config);

}  // namespace euromodal
