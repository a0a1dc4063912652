// image.cpp — decode (OpenCV), 16 bits to 8, transparency on white, grey to RGB, EXIF orientation.
#include "encoders/media/lib/image.h"

#include <array>
#include <cstring>

#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>

#include "encoders/media/lib/av_input.h"
#include "encoders/media/lib/image_header.h"
#include "encoders/media/lib/limits.h"

namespace euromodal {
namespace {

// v / 257 rounded; 257 is odd, so there are no ties.
uint8_t image_to_8_bits(uint16_t v) { return static_cast<uint8_t>((v + 128) / 257); }

// One channel value over white. Same integer arithmetic as Pillow's alpha_composite on an opaque
// white background, to the last bit: fixed point with 7 fraction bits, division by 255 by shifts.
uint8_t image_over_white(uint32_t value, uint32_t alpha) {
  const uint32_t mixed = (value * alpha + 255 * (255 - alpha)) * 128 + (0x80u << 7);
  return static_cast<uint8_t>(((mixed >> 8) + mixed) >> 8 >> 7);
}

// A decoded picture of 1, 3 (BGR) or 4 (BGRA) channels of 8 or 16 bits -> [H, W, 3] RGB.
template <typename T>
Image image_to_rgb(const cv::Mat& decoded, const ImageHeader& header) {
  const int channels = decoded.channels();
  Image out{decoded.rows, decoded.cols, {}};
  out.rgb.resize(static_cast<size_t>(out.height * out.width) * 3);
  std::array<T, 3> key{};
  if (header.transparent) {
    // Grey of 1, 2 and 4 bits is decoded to the full range of 8.
    const int scale =
        channels == 1 && header.bit_depth < 8 ? 255 / ((1 << header.bit_depth) - 1) : 1;
    for (int c = 0; c < channels && c < 3; ++c)
      key[c] = static_cast<T>((*header.transparent)[c] * scale);
  }
  uint8_t* to = out.rgb.data();
  for (int y = 0; y < decoded.rows; ++y) {
    const T* from = decoded.ptr<T>(y);
    for (int x = 0; x < decoded.cols; ++x, from += channels, to += 3) {
      T rgb[3];
      for (int c = 0; c < 3; ++c) rgb[c] = from[channels == 1 ? 0 : 2 - c];
      uint32_t alpha = 255;
      if (channels == 4) {
        alpha = sizeof(T) == 2 ? image_to_8_bits(from[3]) : static_cast<uint8_t>(from[3]);
      } else if (header.transparent) {
        const bool clear = channels == 1 ? rgb[0] == key[0]
                                         : rgb[0] == key[0] && rgb[1] == key[1] && rgb[2] == key[2];
        alpha = clear ? 0 : 255;
      }
      for (int c = 0; c < 3; ++c) {
        const uint8_t value =
            sizeof(T) == 2 ? image_to_8_bits(rgb[c]) : static_cast<uint8_t>(rgb[c]);
        to[c] = alpha == 255 ? value : image_over_white(value, alpha);
      }
    }
  }
  return out;
}

// EXIF orientation 2 to 8: output pixel (y, x) comes from the stored pixel that the tag says.
Image image_upright(Image in, int orientation) {
  if (orientation == 1) return in;
  const bool swapped = orientation >= 5;
  Image out{swapped ? in.width : in.height, swapped ? in.height : in.width, {}};
  out.rgb.resize(in.rgb.size());
  const bool from_right =
      orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom =
      orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  for (int64_t y = 0; y < out.height; ++y) {
    for (int64_t x = 0; x < out.width; ++x) {
      int64_t from_y = swapped ? x : y, from_x = swapped ? y : x;
      if (from_bottom) from_y = in.height - 1 - from_y;
      if (from_right) from_x = in.width - 1 - from_x;
      std::memcpy(&out.rgb[static_cast<size_t>(y * out.width + x) * 3],
                  &in.rgb[static_cast<size_t>(from_y * in.width + from_x) * 3], 3);
    }
  }
  return out;
}

}  // namespace

Image decode_image(const MediaSource& source) {
  const SourceBytes held(source);
  const std::string_view bytes = held.bytes();
  const ImageHeader header = read_image_header(bytes, source.name);
  check_pixels(source.name, header.height, header.width);
  check<DataError>(bytes.size() <= static_cast<size_t>(INT32_MAX), "{}: a picture of {} bytes",
                   source.name, bytes.size());
  const cv::Mat raw(1, static_cast<int>(bytes.size()), CV_8UC1, const_cast<char*>(bytes.data()));
  cv::Mat decoded;
  try {
    decoded = cv::imdecode(raw, cv::IMREAD_UNCHANGED);
  } catch (const cv::Exception& e) {
    throw DataError("{}: broken {} picture: {}", source.name, image_format_name(header.format),
                    e.err);
  }
  check<DataError>(!decoded.empty(), "{}: broken {} picture: it does not decode", source.name,
                   image_format_name(header.format));
  check_pixels(source.name, decoded.rows, decoded.cols);
  const int channels = decoded.channels();
  const bool known = channels == 1 || channels == 3 || channels == 4;
  check<DataError>(known && (decoded.depth() == CV_8U || decoded.depth() == CV_16U),
                   "{}: a {} picture with samples that are not of 8 or 16 bits", source.name,
                   image_format_name(header.format));
  Image out = decoded.depth() == CV_8U ? image_to_rgb<uint8_t>(decoded, header)
                                       : image_to_rgb<uint16_t>(decoded, header);
  return image_upright(std::move(out), header.orientation);
}

}  // namespace euromodal
