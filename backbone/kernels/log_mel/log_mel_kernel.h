// log_mel_kernel.h — launcher of Whisper's log-mel spectrogram on the device. Raw pointers, no
// torch. W windows of S samples, N points of the transform, K = N / 2 + 1 bins, M mel bins, F = S /
// hop frames.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

namespace euromodal {

struct LogMelArgs {
  const float* samples_WS;
  const float* window_N;
  const float* dft_KK2;  // dft_table(N)
  const float* filters_KM;
  float* x_WMF;
  uint32_t* highest_W;  // scratch
  int64_t windows, samples, points, hop, mels;
};

/// As log_mel() of encoders/preprocess/log_mel.h for each window, in f32: 1e-4 of it. The same bits
/// on every run. cudaErrorInvalidValue: points odd or above 1024, samples not a multiple of hop or
/// not above points / 2, mels outside 1 to 1024.
cudaError_t log_mel(const LogMelArgs& args, cudaStream_t stream) noexcept;

}  // namespace euromodal
