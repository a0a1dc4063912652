// image_transform_test.cpp — the image transform of the device against ImageTransform::apply(), to
// the last bit: every filter, shrinking, growing, one axis alone, rows first, crops inside and
// around the picture.
#include "encoders/preprocess/image_transform.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/image_transform/image_transform_kernel.h"
#include "core/rng.h"
#include "tests/support/device_buffer.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::small_sizes;
using testing_support::tensor_equal;

Image picture(int64_t height, int64_t width) {
  Rng rng(static_cast<uint64_t>(height * 10007 + width));
  Image out{height, width, {}};
  out.rgb.resize(static_cast<size_t>(height * width * 3));
  // Noise with hard edges: sums reach over both ends of a byte.
  for (uint8_t& value : out.rgb)
    value = static_cast<uint8_t>(rng.uniform() < 0.4 ? 255 * rng.below(2) : rng.below(256));
  return out;
}

at::Tensor ints(const std::vector<int32_t>& values) { return at::tensor(values, at::kInt); }

at::Tensor device_apply(const ImageTransform& transform, const Image& image) {
  const auto [to_height, to_width] = transform.resized(image.height, image.width);
  const ResizeAxis columns = resize_axis(image.width, to_width, transform.resample),
                   rows = resize_axis(image.height, to_height, transform.resample);
  at::Tensor table_C256 = at::empty({3, 256});
  const auto values = transform.values();
  for (size_t c = 0; c < 3; ++c)
    std::copy(values[c].begin(), values[c].end(),
              table_C256.mutable_data_ptr<float>() + 256 * static_cast<int64_t>(c));
  const bool crop = transform.do_center_crop;
  const int64_t height = crop ? transform.crop_height : to_height,
                width = crop ? transform.crop_width : to_width;
  at::Tensor rgb = at::empty({image.height, image.width, 3}, at::kByte);
  std::copy(image.rgb.begin(), image.rgb.end(), rgb.mutable_data_ptr<uint8_t>());
  const DeviceBuffer pixels(rgb), column_first(ints(columns.first_O)),
      column_weight(ints(columns.weight_KO)), row_first(ints(rows.first_O)),
      row_weight(ints(rows.weight_KO)), table(table_C256),
      x = DeviceBuffer::poisoned({1, 3, height, width}, at::kFloat);
  ImageTransformArgs args{
      .rgb_HWC = pixels.as<uint8_t>(),
      .height = image.height,
      .width = image.width,
      .columns = {column_first.as<int32_t>(), column_weight.as<int32_t>(), columns.taps, to_width},
      .rows = {row_first.as<int32_t>(), row_weight.as<int32_t>(), rows.taps, to_height},
      .rows_first = resize_starts_with_rows(image.height, image.width, to_height, to_width,
                                            transform.resample),
      .top = crop ? crop_start(to_height, height) : 0,
      .left = crop ? crop_start(to_width, width) : 0,
      .out_height = height,
      .out_width = width,
      .value_C256 = table.as<float>(),
      .middle = nullptr,
      .x_CHW = x.as<float>()};
  const DeviceBuffer middle =
      DeviceBuffer::poisoned({static_cast<int64_t>(image_transform_workspace(args))}, at::kByte);
  args.middle = middle.as<uint8_t>();
  EXPECT_EQ(image_transform(args, nullptr), cudaSuccess);
  return x.tensor();
}

void expect_equal(const ImageTransform& transform, const Image& image) {
  SCOPED_TRACE(fmt::format("{}x{}, filter {}", image.height, image.width,
                           static_cast<int>(transform.resample)));
  EXPECT_TRUE(tensor_equal(device_apply(transform, image), transform.apply(image)));
}

TEST(ImageTransformKernelTest, EqualsTheHostToTheLastBit) {
  EM_NEEDS_GPU();
  std::vector<std::array<int64_t, 2>> sizes{{40, 50},  {24, 90}, {7, 5},
                                            {200, 30}, {24, 24}, {1, 1}};
  if (!small_sizes()) sizes.insert(sizes.end(), {{1080, 1920}, {3000, 400}, {333, 1777}});
  const int64_t edge = small_sizes() ? 24 : 384;
  for (int filter = 0; filter <= 5; ++filter) {
    ImageTransform siglip = ImageTransform::siglip_defaults();
    siglip.height = siglip.width = edge;
    siglip.resample = static_cast<Resample>(filter);
    for (const auto& [height, width] : sizes) expect_equal(siglip, picture(height, width));
  }
}

TEST(ImageTransformKernelTest, CropsAsTheHostDoes) {
  EM_NEEDS_GPU();
  const int64_t edge = small_sizes() ? 20 : 224;
  for (const auto& [crop_height, crop_width] : std::vector<std::array<int64_t, 2>>{
           {edge, edge}, {edge - 5, edge + 7}, {3 * edge, 4 * edge}, {1, 1}}) {
    ImageTransform clip = ImageTransform::clip_defaults();
    clip.shortest_edge = edge;
    clip.crop_height = crop_height;
    clip.crop_width = crop_width;
    for (const auto& [height, width] :
         std::vector<std::array<int64_t, 2>>{{30, 61}, {90, 33}, {11, 13}, {20, 20}})
      expect_equal(clip, picture(height, width));
    clip.do_resize = false;
    expect_equal(clip, picture(33, 18));
  }
}

TEST(ImageTransformKernelTest, SizesThatItRefuses) {
  EM_NEEDS_GPU();
  ImageTransformArgs args{};
  EXPECT_EQ(image_transform(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace euromodal
