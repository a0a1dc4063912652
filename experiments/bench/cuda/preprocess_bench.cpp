// preprocess_bench.cpp — a picture of 1.2 and 2 megapixels to the input of SigLIP and CLIP, and 30
// seconds of sound to Whisper's.
#include <ATen/ATen.h>
#include <fmt/core.h>

#include "backbone/kernels/image_transform/image_transform_kernel.h"
#include "backbone/kernels/log_mel/dft_table.h"
#include "backbone/kernels/log_mel/log_mel_kernel.h"
#include "encoders/preprocess/image_transform.h"
#include "encoders/preprocess/log_mel.h"
#include "experiments/bench/cuda/gpu_bench.h"

using namespace euromodal;
using namespace euromodal::bench;

EM_GPU_BENCH(image_transform) {
  struct Case {
    int64_t height, width, edge;
  };
  for (const auto& [height, width, edge] :
       {Case{960, 1280, 224}, Case{960, 1280, 384}, Case{1080, 1920, 384}}) {
    const auto ints = [](const std::vector<int32_t>& values) {
      return at::tensor(values, at::kInt).cuda();
    };
    const ResizeAxis columns = resize_axis(width, edge, Resample::kBicubic),
                     rows = resize_axis(height, edge, Resample::kBicubic);
    const at::Tensor column_first = ints(columns.first_O), column_weight = ints(columns.weight_KO),
                     row_first = ints(rows.first_O), row_weight = ints(rows.weight_KO);
    const size_t pixels = static_cast<size_t>(height * width * 3),
                 out = static_cast<size_t>(edge * edge * 3) * sizeof(float);
    ImageTransformArgs args{
        .rgb_HWC = static_cast<const uint8_t*>(bench.random_bytes(pixels)),
        .height = height,
        .width = width,
        .columns = {column_first.const_data_ptr<int32_t>(), column_weight.const_data_ptr<int32_t>(),
                    columns.taps, edge},
        .rows = {row_first.const_data_ptr<int32_t>(), row_weight.const_data_ptr<int32_t>(),
                 rows.taps, edge},
        .rows_first = resize_starts_with_rows(height, width, edge, edge, Resample::kBicubic),
        .top = 0,
        .left = 0,
        .out_height = edge,
        .out_width = edge,
        .value_C256 = static_cast<const float*>(bench.zeros(3 * 256 * sizeof(float))),
        .middle = nullptr,
        .x_CHW = static_cast<float*>(bench.zeros(out))};
    args.middle = static_cast<uint8_t*>(bench.zeros(image_transform_workspace(args)));
    const double us = bench.time_us(
        [&](int /*i*/, cudaStream_t stream) { return image_transform(args, stream); });
    bench.report("image_transform", fmt::format("{} x {} to {}, bicubic", height, width, edge), us,
                 static_cast<double>(pixels + out));
  }
}

EM_GPU_BENCH(log_mel) {
  for (const int64_t mels : {80, 128}) {
    for (const int64_t windows : {1, 4}) {
      LogMelConfig config;
      config.mels = mels;
      const int64_t samples = config.window_samples(), frames = config.window_frames();
      const at::Tensor sound = at::randn({windows, samples}).cuda(),
                       window = at::hann_window(config.n_fft, at::kFloat).cuda(),
                       dft = at::tensor(dft_table(config.n_fft)).cuda(),
                       filters = mel_filters(config).cuda();
      const size_t out = static_cast<size_t>(windows * mels * frames) * sizeof(float);
      const LogMelArgs args{.samples_WS = sound.const_data_ptr<float>(),
                            .window_N = window.const_data_ptr<float>(),
                            .dft_KK2 = dft.const_data_ptr<float>(),
                            .filters_KM = filters.const_data_ptr<float>(),
                            .x_WMF = static_cast<float*>(bench.zeros(out)),
                            .highest_W = static_cast<uint32_t*>(
                                bench.zeros(static_cast<size_t>(windows) * sizeof(uint32_t))),
                            .windows = windows,
                            .samples = samples,
                            .points = config.n_fft,
                            .hop = config.hop,
                            .mels = mels};
      const double us =
          bench.time_us([&](int /*i*/, cudaStream_t stream) { return log_mel(args, stream); });
      bench.report("log_mel", fmt::format("{} x 30 s, {} mels", windows, mels), us,
                   static_cast<double>(out) + static_cast<double>(windows * samples) * 4.0);
    }
  }
}
