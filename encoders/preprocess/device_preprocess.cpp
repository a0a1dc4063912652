// device_preprocess.cpp — see device_preprocess.h.
#include "encoders/preprocess/device_preprocess.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/log_mel/dft_table.h"
#include "backbone/kernels/to_device.h"

namespace euromodal {

namespace {

constexpr int64_t kMostPoints = 1024;  // of the kernel's transform

ResampleJob resample_job(int64_t from, int64_t to, Resample filter, at::Device device) {
  const ResizeAxis axis = resize_axis(from, to, filter);
  return {to_device(at::tensor(axis.first_O, at::kInt), device),
          to_device(at::tensor(axis.weight_KO, at::kInt), device)};
}

at::Tensor value_table(const ImageTransform& transform) {
  const auto values = transform.values();
  at::Tensor table_C256 = at::empty({3, 256}, at::kFloat);
  float* out = table_C256.mutable_data_ptr<float>();
  for (const auto& channel : values) out = std::copy(channel.begin(), channel.end(), out);
  return table_C256;
}

// What does not depend on the sound; on its device once per shape.
struct DeviceMelTables {
  at::Tensor window_N, dft_KK2, filters_KM;
};

DeviceMelTables device_mel_tables(const LogMelConfig& config, at::Device device) {
  static std::mutex mutex;
  static std::map<std::tuple<int64_t, int64_t, int64_t, std::string>, DeviceMelTables> tables;
  const std::lock_guard lock(mutex);
  DeviceMelTables& entry = tables[{config.n_fft, config.mels, config.sample_rate_hz, device.str()}];
  if (!entry.window_N.defined())
    entry = {to_device(at::hann_window(config.n_fft, at::kFloat), device),
             to_device(at::tensor(dft_table(config.n_fft)), device),
             to_device(mel_filters(config), device)};
  return entry;
}

}  // namespace

at::Tensor transform_on_device(const ImageTransform& transform, const Image& image,
                               at::Device device) {
  check_image(image);
  const auto [to_height, to_width] = transform.resized(image.height, image.width);
  const bool crop = transform.do_center_crop;
  const int64_t height = crop ? transform.crop_height : to_height,
                width = crop ? transform.crop_width : to_width;
  const at::Tensor rgb_HWC = at::from_blob(const_cast<uint8_t*>(image.rgb.data()),
                                           {image.height, image.width, 3}, at::kByte);
  const at::Tensor x_1CHW =
      at::empty({1, 3, height, width}, at::TensorOptions(device).dtype(at::kFloat));
  cuda_ops().image_transform(
      {.rgb_HWC = to_device(rgb_HWC, device),
       .columns = resample_job(image.width, to_width, transform.resample, device),
       .rows = resample_job(image.height, to_height, transform.resample, device),
       .rows_first = resize_starts_with_rows(image.height, image.width, to_height, to_width,
                                             transform.resample),
       .top = crop ? crop_start(to_height, height) : 0,
       .left = crop ? crop_start(to_width, width) : 0,
       .value_C256 = to_device(value_table(transform), device),
       .x_1CHW = x_1CHW});
  return x_1CHW;
}

bool log_mel_fits_device(const LogMelConfig& config) { return config.n_fft <= kMostPoints; }

EncoderInput log_mel_on_device(const Pcm& pcm, const LogMelConfig& config, at::Device device) {
  check_sound(pcm, config);
  const c10::NoGradGuard no_grad;
  const auto samples = static_cast<int64_t>(pcm.samples.size());
  const int64_t windows = (samples + config.window_samples() - 1) / config.window_samples();
  const DeviceMelTables tables = device_mel_tables(config, device);
  const auto f32 = at::TensorOptions(device).dtype(at::kFloat);
  const int64_t width = log_mel_frames(samples, 0, config);
  at::Tensor x_WMF = at::zeros({windows, config.mels, width}, f32);
  for (int64_t first = 0; first < windows;) {  // windows of as many frames: one launch
    const int64_t frames = log_mel_frames(samples, first, config);
    std::vector<at::Tensor> parts;
    int64_t next = first;
    for (; next < windows && log_mel_frames(samples, next, config) == frames; ++next)
      parts.push_back(log_mel_samples(pcm, next, config));
    const at::Tensor whole_WMF = x_WMF.narrow(0, first, next - first);
    const bool direct = frames == width;
    const at::Tensor out_WMF =
        direct ? whole_WMF : at::empty({next - first, config.mels, frames}, f32);
    cuda_ops().log_mel({.samples_WS = to_device(at::stack(parts), device),
                        .window_N = tables.window_N,
                        .dft_KK2 = tables.dft_KK2,
                        .filters_KM = tables.filters_KM,
                        .hop = config.hop,
                        .x_WMF = out_WMF});
    if (!direct) whole_WMF.narrow(2, 0, frames).copy_(out_WMF);
    first = next;
  }
  return {x_WMF, samples};
}

}  // namespace euromodal
