// resize.cpp — two separable passes of 8-bit pixels with fixed-point weights of 22 fraction bits,
// the arithmetic that defines Pillow's results.
#include "encoders/preprocess/resize.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/error.h"

namespace euromodal {
namespace {

constexpr int kWeightBits = 22;  // 8 bits of a pixel and 2 of headroom are left of 32
constexpr int64_t kChannels = 3;

double resize_sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double resize_weight(Resample filter, double x) {
  if (filter == Resample::kBox) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
  if (filter == Resample::kLanczos)
    return x >= -3.0 && x < 3.0 ? resize_sinc(x) * resize_sinc(x / 3) : 0.0;
  x = std::abs(x);
  if (filter == Resample::kBilinear) return x < 1.0 ? 1.0 - x : 0.0;
  if (filter == Resample::kHamming) {
    if (x == 0.0) return 1.0;
    if (x >= 1.0) return 0.0;
    x *= std::numbers::pi;
    return std::sin(x) / x * (0.54 + 0.46 * std::cos(x));
  }
  constexpr double a = -0.5;  // Keys' bicubic
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double resize_support(Resample filter) {
  switch (filter) {
    case Resample::kBox:
      return 0.5;
    case Resample::kBicubic:
      return 2.0;
    case Resample::kLanczos:
      return 3.0;
    default:
      return 1.0;
  }
}

// Output position i is the sum over k of weights[i][k] · input[first[i] + k].
struct ResizeTaps {
  std::vector<int64_t> first;
  std::vector<std::vector<int32_t>> weights;
};

ResizeTaps resize_taps(int64_t from, int64_t to, Resample filter) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double stretch = std::max(scale, 1.0);
  const double support = resize_support(filter) * stretch;
  const double inverse = 1.0 / stretch;
  ResizeTaps taps;
  std::vector<double> row;
  for (int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const int64_t begin = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
    const int64_t end = std::min(from, static_cast<int64_t>(center + support + 0.5));
    row.clear();
    double sum = 0.0;
    for (int64_t k = 0; k < end - begin; ++k) {
      row.push_back(
          resize_weight(filter, (static_cast<double>(k + begin) - center + 0.5) * inverse));
      sum += row.back();
    }
    std::vector<int32_t> fixed;
    for (double weight : row) {
      if (sum != 0.0) weight /= sum;
      const double scaled = weight * (1 << kWeightBits);
      fixed.push_back(static_cast<int32_t>(weight < 0.0 ? scaled - 0.5 : scaled + 0.5));
    }
    taps.first.push_back(begin);
    taps.weights.push_back(std::move(fixed));
  }
  return taps;
}

uint8_t resize_round(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

Image resize_columns(const Image& in, int64_t width, Resample filter) {
  const ResizeTaps taps = resize_taps(in.width, width, filter);
  Image out{in.height, width, {}};
  out.rgb.resize(static_cast<size_t>(in.height * width * kChannels));
  for (int64_t y = 0; y < in.height; ++y) {
    const uint8_t* line = in.rgb.data() + y * in.width * kChannels;
    uint8_t* to = out.rgb.data() + y * width * kChannels;
    for (int64_t x = 0; x < width; ++x, to += kChannels) {
      const uint8_t* from = line + taps.first[x] * kChannels;
      int32_t sum[kChannels] = {1 << (kWeightBits - 1), 1 << (kWeightBits - 1),
                                1 << (kWeightBits - 1)};
      for (const int32_t weight : taps.weights[x]) {
        for (int64_t c = 0; c < kChannels; ++c) sum[c] += from[c] * weight;
        from += kChannels;
      }
      for (int64_t c = 0; c < kChannels; ++c) to[c] = resize_round(sum[c]);
    }
  }
  return out;
}

Image resize_rows(const Image& in, int64_t height, Resample filter) {
  const ResizeTaps taps = resize_taps(in.height, height, filter);
  Image out{height, in.width, {}};
  const int64_t stride = in.width * kChannels;
  out.rgb.resize(static_cast<size_t>(height * stride));
  std::vector<int32_t> sum(static_cast<size_t>(stride));
  for (int64_t y = 0; y < height; ++y) {
    std::fill(sum.begin(), sum.end(), 1 << (kWeightBits - 1));
    const uint8_t* from = in.rgb.data() + taps.first[y] * stride;
    for (const int32_t weight : taps.weights[y]) {
      for (int64_t i = 0; i < stride; ++i) sum[i] += from[i] * weight;
      from += stride;
    }
    std::transform(sum.begin(), sum.end(), out.rgb.begin() + y * stride, &resize_round);
  }
  return out;
}

// Position of output pixel i: Pillow adds the step again and again, in double.
std::vector<int64_t> resize_nearest_map(int64_t from, int64_t to) {
  const double step = static_cast<double>(from) / static_cast<double>(to);
  double at = step * 0.5;
  std::vector<int64_t> map;
  for (int64_t i = 0; i < to; ++i, at += step)
    map.push_back(std::min(from - 1, static_cast<int64_t>(at)));
  return map;
}

Image resize_nearest(const Image& in, int64_t height, int64_t width) {
  const auto rows = resize_nearest_map(in.height, height);
  const auto columns = resize_nearest_map(in.width, width);
  Image out{height, width, {}};
  out.rgb.reserve(static_cast<size_t>(height * width * kChannels));
  for (const int64_t y : rows) {
    for (const int64_t x : columns) {
      const uint8_t* from = in.rgb.data() + (y * in.width + x) * kChannels;
      out.rgb.insert(out.rgb.end(), from, from + kChannels);
    }
  }
  return out;
}

}  // namespace

ResizeAxis resize_axis(int64_t from, int64_t to, Resample filter) {
  ResizeTaps taps;
  if (from == to || filter == Resample::kNearest) {  // one pixel, as it is
    taps.first = resize_nearest_map(from, to);
    taps.weights.assign(static_cast<size_t>(to), {1 << kWeightBits});
  } else {
    taps = resize_taps(from, to, filter);
  }
  ResizeAxis out;
  for (const auto& weights : taps.weights)
    out.taps = std::max(out.taps, static_cast<int64_t>(weights.size()));
  out.first_O.assign(taps.first.begin(), taps.first.end());
  out.weight_KO.assign(static_cast<size_t>(out.taps * to), 0);
  for (int64_t o = 0; o < to; ++o)
    for (size_t k = 0; k < taps.weights[o].size(); ++k)
      out.weight_KO[k * static_cast<size_t>(to) + static_cast<size_t>(o)] = taps.weights[o][k];
  return out;
}

// The rounding between the passes makes their order visible. Since version 13 Pillow starts with
// the rows where that saves the most: when more than twice as many rows as columns go away.
bool resize_starts_with_rows(int64_t height, int64_t width, int64_t to_height, int64_t to_width,
                             Resample filter) {
  return filter != Resample::kNearest && to_height < height &&
         height - to_height > 2 * (width - to_width);
}

Image resize(const Image& image, int64_t height, int64_t width, Resample filter) {
  check<DataError>(height > 0 && width > 0, "picture cannot be resized to {}x{}", height, width);
  if (height == image.height && width == image.width) return image;
  if (filter == Resample::kNearest) return resize_nearest(image, height, width);
  if (width == image.width) return resize_rows(image, height, filter);
  if (height == image.height) return resize_columns(image, width, filter);
  if (resize_starts_with_rows(image.height, image.width, height, width, filter))
    return resize_columns(resize_rows(image, height, filter), width, filter);
  return resize_rows(resize_columns(image, width, filter), height, filter);
}

}  // namespace euromodal
