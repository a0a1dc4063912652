// media_launch.cpp — see media_launch.h.
#include "backbone/cuda/media_launch.h"

#include <ATen/ATen.h>

#include "backbone/kernels/image_transform/image_transform_kernel.h"
#include "backbone/kernels/log_mel/log_mel_kernel.h"

namespace euromodal {

namespace {

ResampleAxis axis_of(const ResampleJob& job) {
  return {job.first_O.const_data_ptr<int32_t>(), job.weight_KO.const_data_ptr<int32_t>(),
          job.weight_KO.numel() / job.first_O.numel(), job.first_O.numel()};
}

}  // namespace

cudaError_t launch_image_transform(const ImageTransformJob& job, cudaStream_t stream) {
  ImageTransformArgs args{.rgb_HWC = job.rgb_HWC.const_data_ptr<uint8_t>(),
                          .height = job.rgb_HWC.size(0),
                          .width = job.rgb_HWC.size(1),
                          .columns = axis_of(job.columns),
                          .rows = axis_of(job.rows),
                          .rows_first = job.rows_first,
                          .top = job.top,
                          .left = job.left,
                          .out_height = job.x_1CHW.size(2),
                          .out_width = job.x_1CHW.size(3),
                          .value_C256 = job.value_C256.const_data_ptr<float>(),
                          .middle = nullptr,
                          .x_CHW = job.x_1CHW.mutable_data_ptr<float>()};
  const at::Tensor middle =
      at::empty({static_cast<int64_t>(image_transform_workspace(args))}, job.rgb_HWC.options());
  args.middle = middle.mutable_data_ptr<uint8_t>();
  return image_transform(args, stream);
}

cudaError_t launch_log_mel(const LogMelJob& job, cudaStream_t stream) {
  const int64_t windows = job.samples_WS.size(0);
  const at::Tensor highest_W = at::empty({windows}, job.samples_WS.options().dtype(at::kInt));
  const LogMelArgs args{.samples_WS = job.samples_WS.const_data_ptr<float>(),
                        .window_N = job.window_N.const_data_ptr<float>(),
                        .dft_KK2 = job.dft_KK2.const_data_ptr<float>(),
                        .filters_KM = job.filters_KM.const_data_ptr<float>(),
                        .x_WMF = job.x_WMF.mutable_data_ptr<float>(),
                        .highest_W = static_cast<uint32_t*>(highest_W.mutable_data_ptr()),
                        .windows = windows,
                        .samples = job.samples_WS.size(1),
                        .points = job.window_N.size(0),
                        .hop = job.hop,
                        .mels = job.filters_KM.size(1)};
  return log_mel(args, stream);
}

}  // namespace euromodal
