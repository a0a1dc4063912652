// image_transform.cpp — reading an image processor's JSON, and the transform itself.
#include "encoders/preprocess/image_transform.h"

#include <algorithm>
#include <cmath>

#include "encoders/preprocess/device_preprocess.h"

namespace euromodal {
namespace {

constexpr int64_t kMaxEdge = 16384;

int64_t transform_edge(const JsonView& json, std::string_view key) {
  const int64_t edge = json.positive(key);
  check<ConfigError>(edge <= kMaxEdge, "{}: {}: got {}, at most {}", json.what(), key, edge,
                     kMaxEdge);
  return edge;
}

void transform_read_size(const JsonView& json, ImageTransform& out) {
  if (!json.has("size")) return;
  out.height = out.width = out.shortest_edge = 0;
  if (json.raw().at("size").is_number()) {
    out.shortest_edge = transform_edge(json, "size");
    return;
  }
  const JsonView size = json.object("size");
  if (size.has("height") && size.has("width")) {
    out.height = transform_edge(size, "height");
    out.width = transform_edge(size, "width");
  } else {
    check<ConfigError>(size.has("shortest_edge") && !size.has("longest_edge"),
                       "{}: size: expected height and width, or shortest_edge alone", json.what());
    out.shortest_edge = transform_edge(size, "shortest_edge");
  }
}

void transform_read_crop(const JsonView& json, ImageTransform& out) {
  if (!json.has("crop_size")) return;
  if (json.raw().at("crop_size").is_number()) {
    out.crop_height = out.crop_width = transform_edge(json, "crop_size");
    return;
  }
  const JsonView size = json.object("crop_size");
  out.crop_height = transform_edge(size, "height");
  out.crop_width = transform_edge(size, "width");
}

void transform_read_channels(const JsonView& json, std::string_view key,
                             std::array<double, 3>& out) {
  if (!json.has(key)) return;
  const Json& list = json.raw().at(std::string(key));
  check<ConfigError>(list.is_array() && list.size() == 3 &&
                         std::all_of(list.begin(), list.end(),
                                     [](const Json& value) { return value.is_number(); }),
                     "{}: {}: expected three numbers", json.what(), key);
  for (size_t c = 0; c < 3; ++c) out[c] = list[c].get<double>();
}

}  // namespace

ImageTransform ImageTransform::siglip_defaults() {
  ImageTransform out;
  out.height = out.width = 224;
  return out;
}

ImageTransform ImageTransform::clip_defaults() {
  ImageTransform out;
  out.shortest_edge = 224;
  out.do_center_crop = true;
  out.crop_height = out.crop_width = 224;
  out.mean = {0.48145466, 0.4578275, 0.40821073};
  out.std = {0.26862954, 0.26130258, 0.27577711};
  return out;
}

ImageTransform ImageTransform::from_json(const JsonView& json, const ImageTransform& defaults) {
  ImageTransform out = defaults;
  out.do_resize = json.boolean("do_resize", out.do_resize);
  out.do_center_crop = json.boolean("do_center_crop", out.do_center_crop);
  out.do_rescale = json.boolean("do_rescale", out.do_rescale);
  out.do_normalize = json.boolean("do_normalize", out.do_normalize);
  out.rescale_factor = json.f64("rescale_factor", out.rescale_factor);
  transform_read_size(json, out);
  transform_read_crop(json, out);
  transform_read_channels(json, "image_mean", out.mean);
  transform_read_channels(json, "image_std", out.std);
  const int64_t filter = json.i64("resample", static_cast<int64_t>(out.resample));
  check<ConfigError>(filter >= 0 && filter <= 5, "{}: resample: got {}, expected 0 to 5",
                     json.what(), filter);
  out.resample = static_cast<Resample>(filter);
  check<ConfigError>(std::all_of(out.std.begin(), out.std.end(), [](double s) { return s > 0.0; }),
                     "{}: image_std: expected positive numbers", json.what());
  check<ConfigError>(std::isfinite(out.rescale_factor), "{}: rescale_factor: not a finite number",
                     json.what());
  return out;
}

std::array<int64_t, 2> ImageTransform::fixed_size() const {
  if (do_center_crop) return {crop_height, crop_width};
  if (do_resize && shortest_edge == 0) return {height, width};
  return {0, 0};
}

std::array<int64_t, 2> ImageTransform::resized(int64_t from_height, int64_t from_width) const {
  if (!do_resize) return {from_height, from_width};
  if (shortest_edge == 0) return {height, width};
  const int64_t shorter = std::min(from_height, from_width);
  const int64_t longer = std::max(from_height, from_width);
  // As Python's int(short · long / short): the division is one of doubles.
  const auto other = static_cast<int64_t>(static_cast<double>(shortest_edge * longer) /
                                          static_cast<double>(shorter));
  check<DataError>(other <= 32 * kMaxEdge,
                   "picture of {}x{} is too narrow: its longer edge would become {}", from_height,
                   from_width, other);
  if (from_width <= from_height) return {other, shortest_edge};
  return {shortest_edge, other};
}

// Rescaled in double and rounded to float32, then normalised in float32.
std::array<std::array<float, 256>, 3> ImageTransform::values() const {
  std::array<std::array<float, 256>, 3> table;
  for (size_t c = 0; c < 3; ++c) {
    for (int v = 0; v < 256; ++v) {
      auto value = static_cast<float>(do_rescale ? v * rescale_factor : v);
      if (do_normalize) value = (value - static_cast<float>(mean[c])) / static_cast<float>(std[c]);
      table[c][v] = value;
    }
  }
  return table;
}

void check_image(const Image& image) {
  check<DataError>(image.height > 0 && image.width > 0 &&
                       static_cast<int64_t>(image.rgb.size()) == image.height * image.width * 3,
                   "picture of {}x{} with {} bytes", image.height, image.width, image.rgb.size());
}

at::Tensor ImageTransform::apply(const Image& image, at::Device device) const {
  if (device.is_cuda()) return transform_on_device(*this, image, device);
  check_image(image);
  Image sized;
  const Image* current = &image;
  if (do_resize) {
    const auto [to_height, to_width] = resized(image.height, image.width);
    sized = resize(image, to_height, to_width, resample);
    current = &sized;
  }
  if (do_center_crop) {
    sized = center_crop(*current, crop_height, crop_width);
    current = &sized;
  }
  const auto table = values();
  at::Tensor x_NCHW = at::empty({1, 3, current->height, current->width}, at::kFloat);
  float* out = x_NCHW.data_ptr<float>();
  const int64_t pixels = current->height * current->width;
  for (int64_t i = 0; i < pixels; ++i) {
    for (int64_t c = 0; c < 3; ++c) out[c * pixels + i] = table[c][current->rgb[i * 3 + c]];
  }
  return x_NCHW;
}

int64_t crop_start(int64_t have, int64_t want) {
  return have >= want ? (have - want) / 2 : -((want - have + 1) / 2);
}

Image center_crop(const Image& image, int64_t height, int64_t width) {
  const int64_t top = crop_start(image.height, height), left = crop_start(image.width, width);
  Image out{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3), 0)};
  for (int64_t y = 0; y < height; ++y) {
    const int64_t from_y = y + top;
    if (from_y < 0 || from_y >= image.height) continue;
    for (int64_t x = 0; x < width; ++x) {
      const int64_t from_x = x + left;
      if (from_x < 0 || from_x >= image.width) continue;
      std::copy_n(&image.rgb[static_cast<size_t>(from_y * image.width + from_x) * 3], 3,
                  &out.rgb[static_cast<size_t>(y * width + x) * 3]);
    }
  }
  return out;
}

}  // namespace euromodal
