// image_towers_test.cpp — SigLIP and CLIP against transformers; batches, clips, gradients, strict
// loading, saving, drawing.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "encoders/encoder.h"
#include "tests/encoders/helpers.h"

namespace euromodal {
namespace {

using namespace testing_support;

class ImageTowerTest : public testing::TestWithParam<const char*> {
 protected:
  std::string name() const { return GetParam(); }
  SafetensorsFile want() const { return SafetensorsFile(golden_dir() / (name() + ".safetensors")); }
  std::vector<EncoderInput> inputs(const SafetensorsFile& file) const {
    std::vector<EncoderInput> out;
    const at::Tensor x_NCHW = file.tensor(*file.find("x"));
    for (int64_t i = 0; i < x_NCHW.size(0); ++i) out.push_back({x_NCHW.narrow(0, i, 1), 0});
    return out;
  }
};

TEST_P(ImageTowerTest, MatchesTransformers) {
  const auto encoder = load_encoder(golden_dir() / name());
  const SafetensorsFile file = want();
  const std::vector<EncoderInput> pictures = inputs(file);
  for (const auto& [features, key] : {std::pair{"last", "last"},
                                      {"pooled", "pooled"},
                                      {"0", "hidden0"},
                                      {"-3", "hidden1"},
                                      {"-2", "hidden2"},
                                      {"-1", "hidden3"},
                                      {"3", "hidden3"}}) {
    const FeatureSelect select = FeatureSelect::parse(features);
    const at::Tensor reference = file.tensor(*file.find(key));
    const at::Tensor want_LE = reference.reshape({-1, reference.size(-1)});
    const Features got = encoder->forward(pictures, select);
    EXPECT_TRUE(tensor_near(got.rows_LE, want_LE, {.abs = 5e-5, .rel = 1e-4})) << features;
    int64_t rows = 0;
    for (size_t i = 0; i < pictures.size(); ++i) {
      EXPECT_EQ(got.items[i], encoder->layout(pictures[i], select));
      rows += got.items[i].rows();
    }
    EXPECT_EQ(rows, got.rows_LE.size(0)) << features;
  }
}

TEST_P(ImageTowerTest, ABatchEqualsOneByOneBitForBit) {
  const auto encoder = load_encoder(golden_dir() / name());
  const c10::NoGradGuard no_grad;
  const std::vector<EncoderInput> pictures = inputs(want());
  for (const char* features : {"last", "pooled", "-2"}) {
    const FeatureSelect select = FeatureSelect::parse(features);
    std::vector<at::Tensor> alone;
    for (const EncoderInput& picture : pictures)
      alone.push_back(encoder->forward({picture}, select, /*per_item=*/true).rows_LE);
    EXPECT_TRUE(
        tensor_equal(encoder->forward(pictures, select, /*per_item=*/true).rows_LE, at::cat(alone)))
        << features;
  }
}

TEST_P(ImageTowerTest, AClipIsItsFramesWithoutClassTokens) {
  const std::shared_ptr<Encoder> image = load_encoder(golden_dir() / name());
  const auto clip = make_frames_encoder(image, 3);
  EXPECT_EQ(clip->modality(), Modality::kVideo);
  const c10::NoGradGuard no_grad;
  const SafetensorsFile file = want();
  const EncoderInput frames{file.tensor(*file.find("x")), 0};
  const RowLayout layout = clip->layout(frames, {});
  EXPECT_EQ(layout, (RowLayout{.frames = 3, .height = 4, .width = 4}));
  const at::Tensor reference = file.tensor(*file.find("last"));
  const at::Tensor patches = reference.narrow(1, reference.size(1) - 16, 16);
  EXPECT_TRUE(tensor_near(clip->forward({frames}, {}).rows_LE,
                          patches.reshape({48, reference.size(-1)}), {.abs = 5e-5, .rel = 1e-4}));
  Clip raw{3, 20, 24, {}, {}};
  for (int64_t f = 0; f < 3; ++f) {
    const Image picture = formula_picture(20, 24);
    raw.rgb.insert(raw.rgb.end(), picture.rgb.begin(), picture.rgb.end());
  }
  EXPECT_TRUE(tensor_equal(clip->preprocess(raw).x.narrow(0, 2, 1),
                           image->preprocess(formula_picture(20, 24)).x));
}

TEST_P(ImageTowerTest, GradientsReachEveryParameterAndAddUpBitForBit) {
  const auto encoder = load_encoder(golden_dir() / name());
  for (const NamedTensor& p : encoder->parameters()) p.tensor.set_requires_grad(true);
  const std::vector<EncoderInput> pictures = inputs(want());
  const FeatureSelect pooled = FeatureSelect::parse("pooled");
  const auto gradients = [&](const std::vector<std::vector<EncoderInput>>& batches) {
    std::vector<at::Tensor> out;
    for (const NamedTensor& p : encoder->parameters()) p.tensor.mutable_grad() = at::Tensor();
    for (const auto& batch : batches) {
      const at::Tensor rows_LE = encoder->forward(batch, pooled, /*per_item=*/true).rows_LE;
      torch::autograd::backward({rows_LE}, {at::sin(rows_LE.detach())});
    }
    for (const NamedTensor& p : encoder->parameters()) {
      EXPECT_TRUE(p.tensor.grad().defined()) << p.name;
      out.push_back(p.tensor.grad().clone());
      EXPECT_GT(out.back().abs().max().item<float>(), 0.0f) << p.name;
    }
    return out;
  };
  const auto together = gradients({pictures});
  const auto apart = gradients({{pictures[0]}, {pictures[1]}, {pictures[2]}});
  for (size_t i = 0; i < together.size(); ++i)
    EXPECT_TRUE(tensor_equal(together[i], apart[i])) << encoder->parameters()[i].name;
}

TEST_P(ImageTowerTest, LoadsWithAndWithoutPrefix) {
  const auto encoder = load_encoder(golden_dir() / name());
  const TempDir dir;
  copy_model(name(), dir.path());
  edit_weights(dir.path(), [](std::vector<NamedTensor>& tensors) {
    const std::string_view prefix = "vision_model.";
    std::vector<NamedTensor> kept;
    const bool had = std::any_of(tensors.begin(), tensors.end(),
                                 [&](const NamedTensor& t) { return t.name.starts_with(prefix); });
    for (NamedTensor& t : tensors) {
      if (had && t.name.starts_with(prefix)) kept.push_back({t.name.substr(13), t.tensor});
      if (!had) kept.push_back({std::string(prefix) + t.name, t.tensor});
    }
    tensors = kept;
  });
  const std::vector<EncoderInput> pictures = inputs(want());
  EXPECT_TRUE(tensor_equal(load_encoder(dir.path())->forward(pictures, {}).rows_LE,
                           encoder->forward(pictures, {}).rows_LE));
}

TEST_P(ImageTowerTest, SavesWhatItLoads) {
  const auto encoder = load_encoder(golden_dir() / name());
  const TempDir dir;
  encoder->save(dir / "saved");
  const std::vector<EncoderInput> pictures = inputs(want());
  const FeatureSelect pooled = FeatureSelect::parse("pooled");
  EXPECT_TRUE(tensor_equal(load_encoder(dir / "saved")->forward(pictures, pooled).rows_LE,
                           encoder->forward(pictures, pooled).rows_LE));
}

TEST_P(ImageTowerTest, Bfloat16IsClose) {
  const auto encoder = load_encoder(golden_dir() / name(), at::kBFloat16);
  const SafetensorsFile file = want();
  const at::Tensor got = encoder->forward(inputs(file), {}).rows_LE;
  EXPECT_EQ(got.scalar_type(), at::kBFloat16);
  const at::Tensor reference = file.tensor(*file.find("last")).reshape(got.sizes());
  EXPECT_GT(at::cosine_similarity(got.to(at::kFloat), reference, 1).min().item<float>(), 0.99f);
}

INSTANTIATE_TEST_SUITE_P(Towers, ImageTowerTest, testing::Values("siglip", "clip"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace euromodal
