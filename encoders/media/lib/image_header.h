// image_header.h — what a picture's bytes say of it before it is decoded: format, size, EXIF
// orientation, transparent colour, and whether the file is whole. libpng, libjpeg and OpenCV return
// the upper part of a truncated picture as if it were whole, hence the check by structure here.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace euromodal {

enum class ImageFormat { kPng, kJpeg, kWebp, kBmp, kTiff, kPnm };
const char* image_format_name(ImageFormat format);

struct ImageHeader {
  ImageFormat format = ImageFormat::kPng;
  int64_t height = 0, width = 0;  // as stored, before `orientation`
  int orientation = 1;            // EXIF tag 274: 1 to 8
  /// PNG tRNS of grey (one entry used) or RGB pictures: samples of this value are transparent.
  std::optional<std::array<uint16_t, 3>> transparent;
  int bit_depth = 8;  // PNG
};

/// DataError naming the source: no known picture format, broken or truncated structure.
ImageHeader read_image_header(std::string_view bytes, const std::string& name);

}  // namespace euromodal
