// image_test.cpp — pictures of every format, depth and orientation against Pillow; truncation at
// any byte; sizes refused before decoding.
#include <cstring>

#include <gtest/gtest.h>

#include "backbone/weights/safetensors.h"
#include "encoders/media/media.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

const std::filesystem::path kData = std::filesystem::path(EM_TEST_DIR) / "data";

Image read_bytes_as_image(const std::string& name, std::string_view bytes) {
  MediaSource source;
  source.name = name;
  source.bytes = bytes;
  source.in_memory = true;
  return media_reader().read_image(source);
}

Image read_file(const std::filesystem::path& file) {
  MediaSource source;
  source.name = file.string();
  return media_reader().read_image(source);
}

// Largest difference of any byte, or -1 when the sizes differ.
int worst_difference(const Image& got, const at::Tensor& want) {
  if (got.height != want.size(0) || got.width != want.size(1)) return -1;
  const at::Tensor contiguous = want.contiguous();
  int worst = 0;
  for (size_t i = 0; i < got.rgb.size(); ++i)
    worst = std::max(worst, std::abs(got.rgb[i] - contiguous.data_ptr<uint8_t>()[i]));
  return worst;
}

TEST(ImageTest, EveryFileIsShownAsPillowShowsIt) {
  const SafetensorsFile expected(kData / "expected.safetensors");
  int files = 0;
  for (const TensorInfo& info : expected.infos()) {
    if (info.shape.size() != 3) continue;
    const bool jpeg = info.name.ends_with(".jpg");
    const int worst = worst_difference(read_file(kData / info.name), expected.tensor(info));
    EXPECT_GE(worst, 0) << info.name << ": other size";
    // Two versions of libjpeg may round chroma differently; everything else is exact.
    EXPECT_LE(worst, jpeg ? 2 : 0) << info.name;
    ++files;
  }
  EXPECT_GE(files, 28);
}

TEST(ImageTest, TruncatedAnywhereIsAnError) {
  for (const char* name : {"rgb.png", "rgba.png", "rgb.jpg", "progressive.jpg", "exif6.jpg",
                           "rgb.webp", "rgb.bmp", "rgb.tiff", "rgb.ppm", "grey16.png"}) {
    const std::string bytes = read_bytes(kData / name);
    for (size_t keep = 0; keep < bytes.size(); keep += 1 + bytes.size() / 40) {
      EXPECT_TRUE((throws_with<DataError>(
          [&] { read_bytes_as_image(name, std::string_view(bytes).substr(0, keep)); }, {name})))
          << name << " cut to " << keep << " of " << bytes.size();
    }
    EXPECT_TRUE((throws_with<DataError>(
        [&] { read_bytes_as_image(name, std::string_view(bytes).substr(0, bytes.size() - 1)); },
        {name})))
        << name << " without its last byte";
  }
}

TEST(ImageTest, DamagedPngIsAnError) {
  std::string bytes = read_bytes(kData / "rgb.png");
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x10);
  EXPECT_TRUE((
      throws_with<DataError>([&] { read_bytes_as_image("damaged.png", bytes); }, {"damaged.png"})));
}

TEST(ImageTest, NoDamagedByteCrashes) {
  for (const char* name : {"exif6.jpg", "exif8.webp", "rgb.bmp", "exif6.tiff", "rgb.ppm"}) {
    const std::string bytes = read_bytes(kData / name);
    for (size_t at = 0; at < bytes.size(); at += 1 + bytes.size() / 60) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ 0xFF);
      try {
        const Image image = read_bytes_as_image(name, damaged);
        EXPECT_EQ(static_cast<int64_t>(image.rgb.size()), image.height * image.width * 3);
      } catch (const DataError& e) {
        EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
      }
    }
  }
}

TEST(ImageTest, HugePicturesAreRefusedByTheirHeader) {
  // A BMP that claims 20000 x 20000 pixels and holds none.
  std::string bmp = read_bytes(kData / "rgb.bmp");
  const auto put = [&](size_t at, uint32_t value) { std::memcpy(&bmp[at], &value, 4); };
  put(18, 20000);
  put(22, 20000);
  put(30, 1);  // compressed: the data's size cannot be checked
  EXPECT_TRUE((throws_with<DataError>([&] { read_bytes_as_image("huge.bmp", bmp); },
                                      {"huge.bmp", "20000", "100000000"})));
  EXPECT_TRUE((throws_with<DataError>(
      [&] { read_bytes_as_image("huge.ppm", "P6\n100000 100000\n255\n....."); }, {"100000"})));
}

TEST(ImageTest, RefusesWhatIsNoPicture) {
  const TempDir dir;
  EXPECT_TRUE((throws_with<DataError>([&] { read_file(dir / "absent.png"); },
                                      {"absent.png", "no such file"})));
  EXPECT_TRUE((throws_with<DataError>([&] { read_file(dir.write("empty.png", "")); },
                                      {"empty.png", "empty"})));
  EXPECT_TRUE((throws_with<DataError>([&] { read_file(dir.write("poem.png", "roses are red")); },
                                      {"poem.png", "not a picture"})));
  EXPECT_TRUE((throws_with<DataError>([&] { read_file(kData / "tone.flac"); }, {"not a picture"})));
}

}  // namespace
}  // namespace euromodal
