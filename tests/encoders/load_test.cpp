// load_test.cpp — strict loading of every encoder, features that are not there, encoders drawn
// afresh.
#include <gtest/gtest.h>

#include "encoders/encoder.h"
#include "tests/encoders/helpers.h"

namespace euromodal {
namespace {

using namespace testing_support;

struct Model {
  const char* name;
  const char* matrix;  // a tensor of it, [32, 32]
};
constexpr Model kModels[] = {
    {"whisper", "model.encoder.layers.1.self_attn.out_proj.weight"},
    {"siglip", "encoder.layers.1.self_attn.out_proj.weight"},
    {"clip", "vision_model.encoder.layers.1.self_attn.out_proj.weight"},
};

NamedTensor& find(std::vector<NamedTensor>& tensors, const std::string& name) {
  for (NamedTensor& t : tensors)
    if (t.name == name) return t;
  throw Error("no tensor {}", name);
}

TEST(LoadEncoderTest, MissingTensorIsNamed) {
  for (const Model& model : kModels) {
    const TempDir dir;
    copy_model(model.name, dir.path());
    edit_weights(dir.path(), [&](std::vector<NamedTensor>& tensors) {
      std::erase_if(tensors, [&](const NamedTensor& t) { return t.name == model.matrix; });
    });
    EXPECT_TRUE((throws_with<CheckpointError>([&] { load_encoder(dir.path()); },
                                              {model.matrix, "missing"})));
  }
}

TEST(LoadEncoderTest, UnexpectedTensorIsNamed) {
  for (const Model& model : kModels) {
    for (const char* extra : {"encoder.layers.9.fc1.weight", "vision_model.extra", "sparkle"}) {
      const TempDir dir;
      copy_model(model.name, dir.path());
      edit_weights(dir.path(), [&](std::vector<NamedTensor>& tensors) {
        tensors.push_back({extra, at::zeros({2})});
      });
      EXPECT_TRUE((throws_with<CheckpointError>([&] { load_encoder(dir.path()); }, {extra})));
    }
  }
}

TEST(LoadEncoderTest, WrongShapeIsNamed) {
  for (const Model& model : kModels) {
    const TempDir dir;
    copy_model(model.name, dir.path());
    edit_weights(dir.path(), [&](std::vector<NamedTensor>& tensors) {
      find(tensors, model.matrix).tensor = at::zeros({32, 31});
    });
    EXPECT_TRUE((throws_with<CheckpointError>([&] { load_encoder(dir.path()); },
                                              {model.matrix, "[32, 31]", "[32, 32]"})));
  }
}

TEST(LoadEncoderTest, FoldersThatAreNoModels) {
  const TempDir dir;
  EXPECT_TRUE((throws_with<ConfigError>([&] { load_encoder(dir / "absent"); }, {"absent"})));
  EXPECT_TRUE((throws_with<ConfigError>([&] { load_encoder(dir.path()); }, {"config.json"})));
  copy_model("siglip", dir.path());
  std::filesystem::remove(dir / "preprocessor_config.json");
  EXPECT_TRUE(
      (throws_with<ConfigError>([&] { load_encoder(dir.path()); }, {"preprocessor_config.json"})));
}

TEST(LoadEncoderTest, TheProcessorMayStandInProcessorConfig) {
  for (const Model& model : kModels) {
    const TempDir dir;
    copy_model(model.name, dir.path());
    const Json json = read_json(dir / "preprocessor_config.json");
    const bool audio = std::string(model.name) == "whisper";
    std::filesystem::remove(dir / "preprocessor_config.json");
    dir.write("processor_config.json",
              Json{{audio ? "feature_extractor" : "image_processor", json}}.dump());
    EXPECT_EQ(load_encoder(dir.path())->modality(), audio ? Modality::kAudio : Modality::kImage);
  }
}

TEST(LoadEncoderTest, PictureSizeMustFit) {
  const TempDir dir;
  copy_model("siglip", dir.path());
  edit_json(dir / "preprocessor_config.json", [](Json& json) {
    json["size"] = {{"height", 32}, {"width", 30}};
  });
  EXPECT_TRUE(
      (throws_with<ConfigError>([&] { load_encoder(dir.path()); }, {"32x30", "image_size", "30"})));
}

TEST(FeatureSelectTest, RefusesWhatIsNotThere) {
  for (const char* word : {"", "first", "-", "1.5", "2x", "99999999999999999999"})
    EXPECT_TRUE(
        (throws_with<UsageError>([&] { FeatureSelect::parse(word); }, {"--features", word})))
        << word;
  const auto siglip = load_encoder(golden_dir() / "siglip");
  const EncoderInput picture = siglip->preprocess(formula_picture(9, 9));
  for (const int64_t index : {-40, -5, 4}) {
    const FeatureSelect select = FeatureSelect::parse(std::to_string(index));
    EXPECT_TRUE((throws_with<UsageError>([&] { siglip->forward({picture}, select); },
                                         {"--features", std::to_string(index)})));
  }
  const auto whisper = load_encoder(golden_dir() / "whisper");
  const EncoderInput sound = whisper->preprocess(formula_sound(400));
  EXPECT_TRUE((throws_with<UsageError>(
      [&] { whisper->layout(sound, FeatureSelect::parse("pooled")); }, {"--features pooled"})));
}

TEST(FeatureSelectTest, PooledNeedsAHead) {
  const TempDir dir;
  copy_model("siglip", dir.path());
  edit_json(dir / "config.json", [](Json& json) { json["vision_use_head"] = false; });
  EXPECT_TRUE((throws_with<CheckpointError>([&] { load_encoder(dir.path()); }, {"head."})));
  edit_weights(dir.path(), [](std::vector<NamedTensor>& tensors) {
    std::erase_if(tensors,
                  [](const NamedTensor& t) { return t.name.find("head.") != std::string::npos; });
  });
  const auto encoder = load_encoder(dir.path());
  const EncoderInput picture = encoder->preprocess(formula_picture(9, 9));
  EXPECT_TRUE(
      (throws_with<UsageError>([&] { encoder->forward({picture}, FeatureSelect::parse("pooled")); },
                               {"--features pooled"})));
}

TEST(RandomEncoderTest, BlocksStartAsTheIdentityAndSeedsDecide) {
  for (const Model& model : kModels) {
    const Json config = read_json(golden_dir() / model.name / "config.json");
    const Json processor = read_json(golden_dir() / model.name / "preprocessor_config.json");
    const auto a = random_encoder(config, processor, 5), b = random_encoder(config, processor, 5);
    const auto c = random_encoder(config, processor, 6);
    const EncoderInput input = a->modality() == Modality::kAudio
                                   ? a->preprocess(formula_sound(9000))
                                   : a->preprocess(formula_picture(40, 30));
    const auto rows = [&](const Encoder& e, const char* features) {
      return e.forward({input}, FeatureSelect::parse(features)).rows_LE;
    };
    EXPECT_TRUE(tensor_equal(rows(*a, "last"), rows(*b, "last"))) << model.name;
    EXPECT_FALSE(rows(*a, "last").equal(rows(*c, "last"))) << model.name;
    EXPECT_TRUE(tensor_equal(rows(*a, "0"), rows(*a, "1"))) << model.name;
    const TempDir dir;
    a->save(dir / "saved");
    EXPECT_TRUE(tensor_equal(rows(*load_encoder(dir / "saved"), "last"), rows(*a, "last")));
  }
}

}  // namespace
}  // namespace euromodal
