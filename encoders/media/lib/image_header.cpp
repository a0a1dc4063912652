// image_header.cpp — PNG (ISO 15948), JPEG (ITU T.81), WebP (RFC 9649), BMP, TIFF 6 and PNM
// headers, and the orientation tag of EXIF.
#include "encoders/media/lib/image_header.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace euromodal {
namespace {

// Reading numbers with bounds: anything beyond the end is the error "truncated".
class HeaderBytes {
 public:
  HeaderBytes(std::string_view bytes, const std::string& name, const char* format)
      : bytes_(bytes), name_(name), format_(format) {}

  uint64_t size() const { return bytes_.size(); }
  const std::string& name() const { return name_; }
  std::string_view slice(uint64_t at, uint64_t count) const {
    check<DataError>(at <= size() && count <= size() - at,
                     "{}: truncated {} picture: {} bytes, more are needed", name_, format_, size());
    return bytes_.substr(at, count);
  }
  uint64_t number(uint64_t at, int count, bool big_endian) const {
    const std::string_view raw = slice(at, static_cast<uint64_t>(count));
    uint64_t value = 0;
    for (int i = 0; i < count; ++i)
      value = value << 8 | static_cast<uint8_t>(raw[big_endian ? i : count - 1 - i]);
    return value;
  }
  uint64_t be(uint64_t at, int count) const { return number(at, count, true); }
  uint64_t le(uint64_t at, int count) const { return number(at, count, false); }
  [[noreturn]] void broken(const char* what) const {
    throw DataError("{}: broken {} picture: {}", name_, format_, what);
  }

 private:
  std::string_view bytes_;
  const std::string& name_;
  const char* format_;
};

uint32_t png_crc(std::string_view bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> out{};
    for (uint32_t n = 0; n < 256; ++n) {
      uint32_t c = n;
      for (int k = 0; k < 8; ++k) c = (c & 1) != 0 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
      out[n] = c;
    }
    return out;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (const char byte : bytes) crc = table[(crc ^ static_cast<uint8_t>(byte)) & 0xFF] ^ (crc >> 8);
  return crc ^ 0xFFFFFFFFu;
}

// Entry `wanted` of the first IFD of a TIFF block (EXIF is one), or -1. A block that does not parse
// says nothing: cameras write broken EXIF often enough.
int64_t tiff_tag(std::string_view block, uint64_t wanted) {
  if (block.size() < 8) return -1;
  const bool big = block[0] == 'M';
  const auto number = [&](uint64_t at, int count) -> uint64_t {
    if (at > block.size() || block.size() - at < static_cast<uint64_t>(count)) return 0;
    uint64_t value = 0;
    for (int i = 0; i < count; ++i)
      value = value << 8 | static_cast<uint8_t>(block[at + (big ? i : count - 1 - i)]);
    return value;
  };
  const uint64_t ifd = number(4, 4);
  const uint64_t entries = number(ifd, 2);
  for (uint64_t i = 0; i < entries; ++i) {
    const uint64_t at = ifd + 2 + 12 * i;
    if (at + 12 > block.size()) break;
    if (number(at, 2) == wanted)
      return static_cast<int64_t>(number(at + 8, number(at + 2, 2) == 3 ? 2 : 4));
  }
  return -1;
}

int exif_orientation(std::string_view block) {
  if (block.starts_with(std::string_view("Exif\0\0", 6))) block.remove_prefix(6);
  const int64_t value = tiff_tag(block, 274);
  return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
}

ImageHeader png_header(const HeaderBytes& in) {
  ImageHeader out;
  out.format = ImageFormat::kPng;
  uint64_t color = 0;
  bool data = false;
  for (uint64_t at = 8;;) {
    const uint64_t length = in.be(at, 4);
    const std::string_view type = in.slice(at + 4, 4);
    const std::string_view body = in.slice(at + 8, length);
    if (in.be(at + 8 + length, 4) != png_crc(in.slice(at + 4, length + 4)))
      in.broken("a chunk's checksum does not match");
    if (at == 8) {
      if (type != "IHDR" || length != 13) in.broken("it does not start with IHDR");
      out.width = static_cast<int64_t>(in.be(16, 4));
      out.height = static_cast<int64_t>(in.be(20, 4));
      out.bit_depth = static_cast<int>(in.be(24, 1));
      color = in.be(25, 1);
    } else if (type == "tRNS" && (color == 0 || color == 2)) {
      std::array<uint16_t, 3> key{};
      const size_t samples = color == 0 ? 1 : 3;
      if (length != 2 * samples) in.broken("its tRNS chunk has the wrong size");
      for (size_t i = 0; i < samples; ++i) key[i] = static_cast<uint16_t>(in.be(at + 8 + 2 * i, 2));
      out.transparent = key;
    } else if (type == "eXIf") {
      out.orientation = exif_orientation(body);
    } else if (type == "IDAT") {
      data = true;
    } else if (type == "IEND") {
      if (!data) in.broken("it has no image data");
      return out;
    }
    at += 12 + length;
  }
}

// The end of the compressed data that starts at `at`: position of the next real marker.
uint64_t jpeg_skip_scan(const HeaderBytes& in, uint64_t at) {
  while (true) {
    const std::string_view rest = in.slice(at, in.size() - at);
    const size_t found = rest.find('\xFF');
    if (found == std::string_view::npos) in.slice(in.size(), 1);  // truncated
    at += found;
    const uint64_t code = in.be(at + 1, 1);
    if (code == 0xFF) {
      at += 1;  // fill byte
    } else if (code == 0 || (code >= 0xD0 && code <= 0xD7)) {
      at += 2;  // stuffed byte or restart marker
    } else {
      return at;
    }
  }
}

ImageHeader jpeg_header(const HeaderBytes& in) {
  ImageHeader out;
  out.format = ImageFormat::kJpeg;
  bool scan = false;
  for (uint64_t at = 2;;) {
    if (in.be(at, 1) != 0xFF) in.broken("a marker is expected and other bytes stand there");
    const uint64_t code = in.be(at + 1, 1);
    if (code == 0xFF) {
      at += 1;
      continue;
    }
    if (code == 0xD9) {
      if (!scan) in.broken("it has no image data");
      return out;
    }
    if (code == 0x01 || (code >= 0xD0 && code <= 0xD8)) {
      at += 2;
      continue;
    }
    const uint64_t length = in.be(at + 2, 2);
    if (length < 2) in.broken("a segment of negative length");
    const std::string_view body = in.slice(at + 4, length - 2);
    const bool frame = code >= 0xC0 && code <= 0xCF && code != 0xC4 && code != 0xC8 && code != 0xCC;
    if (frame) {
      out.height = static_cast<int64_t>(in.be(at + 5, 2));
      out.width = static_cast<int64_t>(in.be(at + 7, 2));
    } else if (code == 0xE1 && body.starts_with(std::string_view("Exif\0\0", 6))) {
      out.orientation = exif_orientation(body);
    }
    at += 2 + length;
    if (code == 0xDA) {
      scan = true;
      at = jpeg_skip_scan(in, at);
    }
  }
}

ImageHeader webp_header(const HeaderBytes& in) {
  ImageHeader out;
  out.format = ImageFormat::kWebp;
  const uint64_t end = 8 + in.le(4, 4);
  in.slice(0, end);
  for (uint64_t at = 12; at + 8 <= end;) {
    const std::string_view type = in.slice(at, 4);
    const uint64_t length = in.le(at + 4, 4);
    const std::string_view body = in.slice(at + 8, length);
    if (type == "VP8X") {
      out.width = static_cast<int64_t>(in.le(at + 12, 3)) + 1;
      out.height = static_cast<int64_t>(in.le(at + 15, 3)) + 1;
    } else if (type == "VP8 " && out.width == 0) {
      out.width = static_cast<int64_t>(in.le(at + 14, 2) & 0x3FFF);
      out.height = static_cast<int64_t>(in.le(at + 16, 2) & 0x3FFF);
    } else if (type == "VP8L" && out.width == 0) {
      const uint64_t bits = in.le(at + 9, 4);
      out.width = static_cast<int64_t>(bits & 0x3FFF) + 1;
      out.height = static_cast<int64_t>(bits >> 14 & 0x3FFF) + 1;
    } else if (type == "EXIF") {
      out.orientation = exif_orientation(body);
    }
    at += 8 + length + (length & 1);
  }
  return out;
}

ImageHeader bmp_header(const HeaderBytes& in) {
  ImageHeader out;
  out.format = ImageFormat::kBmp;
  if (in.le(14, 4) == 12) {
    out.width = static_cast<int64_t>(in.le(18, 2));
    out.height = static_cast<int64_t>(in.le(20, 2));
  } else {
    out.width = static_cast<int32_t>(in.le(18, 4));
    const int64_t height = static_cast<int32_t>(in.le(22, 4));
    out.height = height < 0 ? -height : height;  // negative: stored from the top
  }
  const uint64_t offset = in.le(10, 4);
  if (in.le(14, 4) >= 40 && in.le(30, 4) == 0 && out.width > 0) {  // not compressed: size is known
    const uint64_t row = (static_cast<uint64_t>(out.width) * in.le(28, 2) + 31) / 32 * 4;
    const auto rows = static_cast<uint64_t>(out.height);
    if (rows > 0 && row > in.size() / rows) in.slice(in.size(), 1);
    in.slice(offset, row * rows);
  }
  return out;
}

// The decoder applies a TIFF's orientation by itself.
ImageHeader tiff_header(const HeaderBytes& in) {
  ImageHeader out;
  out.format = ImageFormat::kTiff;
  const std::string_view block = in.slice(0, in.size());
  const uint64_t ifd = in.number(4, 4, block[0] == 'M');
  in.slice(ifd, 2);
  out.width = tiff_tag(block, 256);
  out.height = tiff_tag(block, 257);
  return out;
}

ImageHeader pnm_header(const HeaderBytes& in) {
  ImageHeader out;
  out.format = ImageFormat::kPnm;
  int64_t fields[2] = {0, 0};
  uint64_t at = 2;
  for (int64_t& field : fields) {
    while (true) {  // white space and comments
      const char c = in.slice(at, 1)[0];
      if (c == '#') {
        while (in.slice(at, 1)[0] != '\n') ++at;
      } else if (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
        break;
      }
      ++at;
    }
    for (char c = in.slice(at, 1)[0]; c >= '0' && c <= '9'; c = in.slice(++at, 1)[0]) {
      field = field * 10 + (c - '0');
      if (field > INT32_MAX) in.broken("its size is not a number");
    }
  }
  out.width = fields[0];
  out.height = fields[1];
  return out;
}

}  // namespace

const char* image_format_name(ImageFormat format) {
  constexpr const char* kNames[] = {"PNG", "JPEG", "WebP", "BMP", "TIFF", "PNM"};
  return kNames[static_cast<int>(format)];
}

ImageHeader read_image_header(std::string_view bytes, const std::string& name) {
  using Parser = ImageHeader (*)(const HeaderBytes&);
  struct Signature {
    std::string_view start;
    const char* format;
    Parser parse;
  };
  static constexpr Signature kSignatures[] = {
      {{"\x89PNG\r\n\x1a\n", 8}, "PNG", &png_header},
      {{"\xFF\xD8\xFF", 3}, "JPEG", &jpeg_header},
      {{"RIFF", 4}, "WebP", &webp_header},
      {{"BM", 2}, "BMP", &bmp_header},
      {{"II*\0", 4}, "TIFF", &tiff_header},
      {{"MM\0*", 4}, "TIFF", &tiff_header},
      {{"P1", 2}, "PNM", &pnm_header},
      {{"P2", 2}, "PNM", &pnm_header},
      {{"P3", 2}, "PNM", &pnm_header},
      {{"P4", 2}, "PNM", &pnm_header},
      {{"P5", 2}, "PNM", &pnm_header},
      {{"P6", 2}, "PNM", &pnm_header},
  };
  for (const Signature& signature : kSignatures) {
    if (!bytes.starts_with(signature.start)) continue;
    if (signature.parse == &webp_header && (bytes.size() < 12 || bytes.substr(8, 4) != "WEBP"))
      continue;
    return signature.parse(HeaderBytes(bytes, name, signature.format));
  }
  throw DataError("{}: not a picture that can be read (PNG, JPEG, WebP, BMP, TIFF, PNM)", name);
}

}  // namespace euromodal
