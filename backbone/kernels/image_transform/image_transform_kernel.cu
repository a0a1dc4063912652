// image_transform_kernel.cu — from a picture of 8-bit pixels to an encoder's input. Reference:
// encoders/preprocess/image_transform.cpp and resize.cpp, whose arithmetic is Pillow's.
//
// Two separable passes, one thread a pixel; the second one looks its three values up in the table
// of normalised bytes. What the wanted window does not need is not computed.
#include "backbone/kernels/cuda/device.h"
#include "backbone/kernels/image_transform/image_transform_kernel.h"

namespace euromodal {
namespace {

constexpr int kThreads = 128, kWeightBits = 22;
constexpr int64_t kMaxSize = int64_t{1} << 20;

struct Rgb {
  uint8_t c[3];
};

EM_DEVICE uint8_t rounded(int32_t sum) {
  const int32_t v = sum >> kWeightBits;
  return static_cast<uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v);
}

// Pixel `o` of an axis; `from`: the line's first input pixel, `stride` bytes between its pixels.
EM_DEVICE Rgb resampled(const ResampleAxis& axis, int64_t o, const uint8_t* from, int64_t stride,
                        int64_t size) {
  int32_t sum[3] = {1 << (kWeightBits - 1), 1 << (kWeightBits - 1), 1 << (kWeightBits - 1)};
  const int64_t first = axis.first_O[o];
  const int64_t taps = size - first < axis.taps ? size - first : axis.taps;
  from += first * stride;
#pragma unroll 4
  for (int64_t k = 0; k < taps; ++k, from += stride) {
    const int32_t weight = axis.weight_KO[k * axis.size + o];
    for (int c = 0; c < 3; ++c) sum[c] += from[c] * weight;
  }
  return {{rounded(sum[0]), rounded(sum[1]), rounded(sum[2])}};
}

// A rectangle of pixels.
struct Area {
  int64_t top, left, height, width;
};

// First pass: an area of the picture resampled along one axis -> to [area.height, area.width, 3].
__global__ void __launch_bounds__(kThreads)
    first_pass(const uint8_t* rgb, int64_t height, int64_t width, ResampleAxis axis, bool rows,
               Area area, uint8_t* to) {
  const int64_t x = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (x >= area.width) return;
  for (int64_t y = blockIdx.y; y < area.height; y += gridDim.y) {
    const int64_t at_y = area.top + y, at_x = area.left + x;
    const Rgb pixel = rows ? resampled(axis, at_y, rgb + at_x * 3, width * 3, height)
                           : resampled(axis, at_x, rgb + at_y * width * 3, 3, width);
    uint8_t* out = to + (y * area.width + x) * 3;
    for (int c = 0; c < 3; ++c) out[c] = pixel.c[c];
  }
}

// Second pass: the other axis, out of `middle`, which holds `area`.
__global__ void __launch_bounds__(kThreads)
    second_pass(ImageTransformArgs a, Area area, int64_t size) {
  const int64_t x = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (x >= a.out_width) return;
  const int64_t plane = a.out_height * a.out_width, at_x = a.left + x;
  for (int64_t y = blockIdx.y; y < a.out_height; y += gridDim.y) {
    const int64_t at_y = a.top + y;
    Rgb pixel{{0, 0, 0}};
    if (at_x >= 0 && at_x < a.columns.size && at_y >= 0 && at_y < a.rows.size) {
      pixel =
          a.rows_first
              ? resampled(a.columns, at_x, a.middle + (at_y - area.top) * area.width * 3, 3, size)
              : resampled(a.rows, at_y, a.middle + (at_x - area.left) * 3, area.width * 3, size);
    }
    for (int c = 0; c < 3; ++c)
      a.x_CHW[c * plane + y * a.out_width + x] = a.value_C256[c * 256 + pixel.c[c]];
  }
}

struct Span {
  int64_t begin, end;
};
Span clipped(int64_t begin, int64_t count, int64_t size) {
  const int64_t first = begin < 0 ? 0 : begin, last = begin + count < size ? begin + count : size;
  return {first, last < first ? first : last};
}

// The first pass makes the window's part of its own axis and all of the other, whose taps are on
// the device.
Area middle_area(const ImageTransformArgs& a) {
  if (a.rows_first) {
    const Span y = clipped(a.top, a.out_height, a.rows.size);
    return {y.begin, 0, y.end - y.begin, a.width};
  }
  const Span x = clipped(a.left, a.out_width, a.columns.size);
  return {0, x.begin, a.height, x.end - x.begin};
}

dim3 grid_of(int64_t height, int64_t width) {
  return {static_cast<unsigned>((width + kThreads - 1) / kThreads),
          static_cast<unsigned>(height < 65535 ? height : 65535), 1};
}

}  // namespace

size_t image_transform_workspace(const ImageTransformArgs& args) noexcept {
  const Area area = middle_area(args);
  return static_cast<size_t>(area.height * area.width * 3);
}

cudaError_t image_transform(const ImageTransformArgs& args, cudaStream_t stream) noexcept {
  for (const int64_t size : {args.height, args.width, args.columns.size, args.rows.size,
                             args.out_height, args.out_width})
    if (size < 1 || size > kMaxSize) return cudaErrorInvalidValue;
  if (args.columns.taps < 1 || args.rows.taps < 1) return cudaErrorInvalidValue;
  const Area area = middle_area(args);
  if (area.height > 0 && area.width > 0)
    EM_LAUNCH(first_pass, grid_of(area.height, area.width), kThreads, 0, stream, args.rgb_HWC,
              args.height, args.width, args.rows_first ? args.rows : args.columns, args.rows_first,
              area, args.middle);
  EM_LAUNCH(second_pass, grid_of(args.out_height, args.out_width), kThreads, 0, stream, args, area,
            args.rows_first ? args.width : args.height);
  return cudaGetLastError();
}

}  // namespace euromodal
