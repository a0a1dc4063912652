// image_transform_test.cpp — resize against Pillow bit for bit; transforms against the PIL backend
// of transformers' CLIP and SigLIP processors; the JSON.
#include "encoders/preprocess/image_transform.h"

#include <gtest/gtest.h>

#include "backbone/weights/safetensors.h"
#include "tests/encoders/preprocess/formulas.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::formula_picture;
using testing_support::tensor_near;

ImageTransform parse(const std::string& json, const ImageTransform& defaults) {
  const Json parsed = parse_json(json, "preprocessor_config.json");
  return ImageTransform::from_json(JsonView(parsed, "preprocessor_config.json"), defaults);
}

// "40x100" -> {40, 100}
std::pair<int64_t, int64_t> size_of(const std::string& text) {
  const size_t at = text.find('x');
  return {std::stoll(text.substr(0, at)), std::stoll(text.substr(at + 1))};
}

TEST(ResizeTest, EqualsPillowBitForBit) {
  const SafetensorsFile file(std::filesystem::path(EM_TEST_DIR) / "goldens/resize.safetensors");
  int cases = 0;
  for (const TensorInfo& info : file.infos()) {  // "HxW.HxW.FILTER"
    const size_t first = info.name.find('.'), second = info.name.rfind('.');
    const auto [h, w] = size_of(info.name.substr(0, first));
    const auto [th, tw] = size_of(info.name.substr(first + 1, second - first - 1));
    const auto filter = static_cast<Resample>(std::stoi(info.name.substr(second + 1)));
    const Image got = resize(formula_picture(h, w), th, tw, filter);
    const at::Tensor want = file.tensor(info).contiguous();
    ASSERT_EQ(want.sizes(), (at::IntArrayRef{got.height, got.width, 3})) << info.name;
    EXPECT_EQ(std::memcmp(got.rgb.data(), want.data_ptr<uint8_t>(), got.rgb.size()), 0)
        << info.name;
    ++cases;
  }
  EXPECT_GE(cases, 60);
}

TEST(ImageTransformTest, MatchesTransformersPilBackend) {
  const std::map<std::string, ImageTransform> transforms = {
      {"siglip",
       parse(R"({"size": {"height": 20, "width": 24}})", ImageTransform::siglip_defaults())},
      {"clip", parse(R"({"size": {"shortest_edge": 21}, "crop_size": {"height": 18, "width": 20}})",
                     ImageTransform::clip_defaults())},
      {"wide", parse(R"({"size": 9, "crop_size": {"height": 12, "width": 14}})",
                     ImageTransform::clip_defaults())}};
  const SafetensorsFile file(std::filesystem::path(EM_TEST_DIR) / "goldens/transform.safetensors");
  int cases = 0;
  for (const TensorInfo& info : file.infos()) {  // "NAME.HxW"
    const size_t dot = info.name.find('.');
    const auto [h, w] = size_of(info.name.substr(dot + 1));
    // The processors of the goldens have the ImageNet mean of SigLIP's class where JSON has none.
    const at::Tensor got = transforms.at(info.name.substr(0, dot)).apply(formula_picture(h, w));
    EXPECT_TRUE(tensor_near(got, file.tensor(info), {.abs = 1e-6, .rel = 1e-6})) << info.name;
    ++cases;
  }
  EXPECT_EQ(cases, 15);
}

TEST(ImageTransformTest, RefusesBadConfigs) {
  const auto refuse = [](const std::string& json, const char* key) {
    return throws_with<ConfigError>([&] { parse(json, ImageTransform::siglip_defaults()); },
                                    {"preprocessor_config.json", key});
  };
  EXPECT_TRUE(refuse(R"({"size": {"height": 0, "width": 3}})", "height"));
  EXPECT_TRUE(refuse(R"({"size": {"longest_edge": 3}})", "size"));
  EXPECT_TRUE(refuse(R"({"size": -3})", "size"));
  EXPECT_TRUE(refuse(R"({"size": 1000000000})", "size"));
  EXPECT_TRUE(refuse(R"({"resample": 9})", "resample"));
  EXPECT_TRUE(refuse(R"({"image_mean": [1, 2]})", "image_mean"));
  EXPECT_TRUE(refuse(R"({"image_std": [1, 2, 0]})", "image_std"));
  EXPECT_TRUE(refuse(R"({"do_resize": "yes"})", "do_resize"));
}

TEST(ImageTransformTest, RefusesNeedles) {
  const ImageTransform clip = ImageTransform::clip_defaults();
  EXPECT_TRUE(
      (throws_with<DataError>([&] { clip.apply(formula_picture(1, 40000)); }, {"1x40000"})));
}

}  // namespace
}  // namespace euromodal
