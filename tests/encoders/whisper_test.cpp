// whisper_test.cpp — Whisper's encoder against transformers, with and without padding to the
// window; batches; gradients; strict loading; saving.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "backbone/weights/safetensors.h"
#include "encoders/encoder.h"
#include "tests/encoders/helpers.h"

namespace euromodal {
namespace {

using namespace testing_support;

constexpr int64_t kLengths[] = {1, 320, 321, 8000, 15999, 16000, 16001, 27123};

std::unique_ptr<Encoder> own_frames_encoder(const TempDir& dir) {
  copy_model("whisper", dir.path());
  edit_json(dir / "preprocessor_config.json", [](Json& json) { json["pad_to_window"] = false; });
  return load_encoder(dir.path());
}

TEST(WhisperTest, MatchesTransformers) {
  const auto encoder = load_encoder(golden_dir() / "whisper");
  const SafetensorsFile want(golden_dir() / "whisper.safetensors");
  for (const int64_t samples : kLengths) {
    const EncoderInput input = encoder->preprocess(formula_sound(samples));
    for (const auto& [features, name] : {std::pair{"last", "last"},
                                         {"-1", "last"},
                                         {"0", "hidden0"},
                                         {"-2", "hidden1"},
                                         {"1", "hidden1"},
                                         {"2", "hidden2"}}) {
      const FeatureSelect select = FeatureSelect::parse(features);
      const Features got = encoder->forward({input}, select);
      EXPECT_EQ(encoder->layout(input, select).rows(), got.rows_LE.size(0));
      EXPECT_TRUE(tensor_near(got.rows_LE,
                              want.tensor(*want.find(fmt::format("{}.{}", name, samples))),
                              {.abs = 5e-5, .rel = 1e-4}))
          << samples << " " << features;
    }
  }
}

TEST(WhisperTest, WithoutPaddingMatchesTransformersLayersOnOwnFrames) {
  const TempDir dir;
  const auto encoder = own_frames_encoder(dir);
  const SafetensorsFile want(golden_dir() / "whisper.safetensors");
  for (const int64_t samples : kLengths) {
    const EncoderInput input = encoder->preprocess(formula_sound(samples));
    EXPECT_TRUE(tensor_near(encoder->forward({input}, {}).rows_LE,
                            want.tensor(*want.find(fmt::format("own.{}", samples))),
                            {.abs = 5e-5, .rel = 1e-4}))
        << samples;
  }
}

TEST(WhisperTest, LayoutEqualsForwardForManyLengths) {
  const TempDir dir;
  const auto padded = load_encoder(golden_dir() / "whisper");
  const auto own = own_frames_encoder(dir);
  const c10::NoGradGuard no_grad;
  for (int64_t samples = 1; samples < 40000; samples += 1237) {
    for (const Encoder* encoder : {padded.get(), own.get()}) {
      const EncoderInput input = encoder->preprocess(formula_sound(samples));
      const RowLayout layout = encoder->layout(input, {});
      EXPECT_EQ(layout.rows(), (samples + 319) / 320);
      EXPECT_EQ(encoder->forward({input}, {}).rows_LE.size(0), layout.rows());
    }
  }
}

TEST(WhisperTest, ABatchEqualsOneByOne) {
  const TempDir dir;
  const auto padded = load_encoder(golden_dir() / "whisper");
  const auto own = own_frames_encoder(dir);
  const c10::NoGradGuard no_grad;
  for (const Encoder* encoder : {padded.get(), own.get()}) {
    std::vector<EncoderInput> inputs;
    std::vector<at::Tensor> alone, alone_bitwise;
    for (const int64_t samples : kLengths) {
      inputs.push_back(encoder->preprocess(formula_sound(samples)));
      alone.push_back(encoder->forward({inputs.back()}, {}).rows_LE);
      alone_bitwise.push_back(encoder->forward({inputs.back()}, {}, /*per_item=*/true).rows_LE);
    }
    EXPECT_TRUE(tensor_near(encoder->forward(inputs, {}).rows_LE, at::cat(alone),
                            {.abs = 1e-5, .rel = 1e-5}));
    EXPECT_TRUE(tensor_equal(encoder->forward(inputs, {}, /*per_item=*/true).rows_LE,
                             at::cat(alone_bitwise)));
  }
}

TEST(WhisperTest, GradientsReachEveryParameterAndAddUpBitForBit) {
  const TempDir dir;
  const auto encoder = own_frames_encoder(dir);
  for (const NamedTensor& p : encoder->parameters()) p.tensor.set_requires_grad(true);
  std::vector<EncoderInput> inputs;
  for (const int64_t samples : kLengths)
    inputs.push_back(encoder->preprocess(formula_sound(samples)));
  const auto gradients = [&](const std::vector<std::vector<EncoderInput>>& batches) {
    for (const NamedTensor& p : encoder->parameters()) p.tensor.mutable_grad() = at::Tensor();
    for (const auto& batch : batches) {
      const at::Tensor rows_LE = encoder->forward(batch, {}, /*per_item=*/true).rows_LE;
      torch::autograd::backward({rows_LE}, {at::sin(rows_LE.detach())});
    }
    std::vector<at::Tensor> out;
    for (const NamedTensor& p : encoder->parameters()) {
      EXPECT_TRUE(p.tensor.grad().defined()) << p.name;
      out.push_back(p.tensor.grad().clone());
      EXPECT_GT(out.back().abs().max().item<float>(), 0.0f) << p.name;
    }
    return out;
  };
  std::vector<std::vector<EncoderInput>> single;
  for (const EncoderInput& input : inputs) single.push_back({input});
  single.resize(4);  // sounds of one window
  const std::vector<at::Tensor> together =
      gradients({std::vector<EncoderInput>(inputs.begin(), inputs.begin() + 4)});
  const std::vector<at::Tensor> apart = gradients(single);
  for (size_t i = 0; i < together.size(); ++i)
    EXPECT_TRUE(tensor_equal(together[i], apart[i])) << encoder->parameters()[i].name;
}

TEST(WhisperTest, ThePositionTableIsNoParameter) {
  const auto encoder = load_encoder(golden_dir() / "whisper");
  EXPECT_FALSE(encoder->parameters().empty());
  for (const NamedTensor& p : encoder->parameters())
    EXPECT_EQ(p.name.find("embed_positions"), std::string::npos);
}

TEST(WhisperTest, LoadsWithAnyPrefix) {
  const auto whole = load_encoder(golden_dir() / "whisper");
  const EncoderInput input = whole->preprocess(formula_sound(5000));
  for (const char* prefix : {"encoder.", ""}) {
    const TempDir dir;
    copy_model("whisper", dir.path());
    edit_weights(dir.path(), [&](std::vector<NamedTensor>& tensors) {
      std::vector<NamedTensor> kept;
      for (NamedTensor& t : tensors)
        if (t.name.starts_with("model.encoder."))
          kept.push_back({prefix + t.name.substr(std::strlen("model.encoder.")), t.tensor});
      tensors = kept;
    });
    EXPECT_TRUE(tensor_equal(load_encoder(dir.path())->forward({input}, {}).rows_LE,
                             whole->forward({input}, {}).rows_LE));
  }
}

TEST(WhisperTest, SavesWhatItLoads) {
  const TempDir dir;
  const auto encoder = load_encoder(golden_dir() / "whisper");
  encoder->save(dir / "saved");
  const auto again = load_encoder(dir / "saved");
  const EncoderInput input = encoder->preprocess(formula_sound(5000));
  EXPECT_TRUE(
      tensor_equal(again->forward({input}, {}).rows_LE, encoder->forward({input}, {}).rows_LE));
}

TEST(WhisperTest, RefusesConfigsThatDoNotFitTogether) {
  const auto refuse = [](const char* file, auto edit, std::initializer_list<std::string_view> w) {
    const TempDir dir;
    copy_model("whisper", dir.path());
    edit_json(dir / file, edit);
    return throws_with<ConfigError>([&] { load_encoder(dir.path()); }, w);
  };
  EXPECT_TRUE(refuse("config.json", [](Json& j) { j["num_mel_bins"] = 80; }, {"num_mel_bins"}));
  EXPECT_TRUE(refuse("config.json", [](Json& j) { j["d_model"] = 0; }, {"d_model"}));
  EXPECT_TRUE(refuse("config.json", [](Json& j) { j.erase("encoder_layers"); },
                     {"config.json", "encoder_layers"}));
  EXPECT_TRUE(refuse("config.json", [](Json& j) { j["activation_function"] = "swish"; },
                     {"activation_function", "swish"}));
  EXPECT_TRUE(refuse("config.json", [](Json& j) { j["max_source_positions"] = 49; },
                     {"max_source_positions"}));
  EXPECT_TRUE(refuse("config.json", [](Json& j) { j["model_type"] = "bert"; },
                     {"model_type", "bert", "whisper"}));
  EXPECT_TRUE(refuse("preprocessor_config.json", [](Json& j) { j["chunk_length"] = 2; },
                     {"max_source_positions"}));
}

}  // namespace
}  // namespace euromodal
