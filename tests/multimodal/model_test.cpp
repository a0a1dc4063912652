// model_test.cpp — a model from its folder and from its YAML: logits of a tiny LLaVA of
// transformers, round trips, faults that are named.
#include "multimodal/model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

const fs::path kGoldens = fs::path(EM_TEST_DIR) / "goldens";

/// The two prompts of the golden as one batch.
Batch golden_batch(const MultimodalModel& model, bool per_sample) {
  const SafetensorsFile golden(kGoldens / "llava.safetensors");
  const at::Tensor pixels = golden.tensor(*golden.find("pixels"));
  std::vector<Example> examples;
  int64_t next = 0;
  for (const int64_t images : {1, 2}) {
    Example example;
    example.id = fmt::format("{}", images);
    std::vector<int64_t> tokens;
    for (int64_t i = 0; i < images; ++i, ++next) {
      example.kinds.push_back(Modality::kImage);
      example.inputs.push_back({pixels.slice(0, next, next + 1), 0});
      tokens.push_back(model.num_tokens(Modality::kImage, example.inputs.back()));
    }
    example.plan = plan_prompt(golden.metadata().at(fmt::format("prompt.{}", images - 1)),
                               example.kinds, tokens, true, model.plan_context());
    examples.push_back(std::move(example));
  }
  return collate(std::move(examples), per_sample);
}

at::Tensor logits_of(const MultimodalModel& model) {
  const c10::NoGradGuard no_graph;
  return model.backbone().logits(model.forward(golden_batch(model, false)));
}

/// Backbone and image encoder of the golden, with `more` behind.
std::string yaml_of(const std::string& more) {
  return fmt::format("backbone: {{model: {0}}}\n", (kGoldens / "llava").string()) + more;
}

std::string image_section(const std::string& adapter) {
  return fmt::format("image: {{encoder: {{model: {}, features: -2}}, adapter: {}}}\n",
                     (kGoldens / "llava/encoder_image").string(), adapter);
}

TEST(MultimodalModelTest, LogitsAreThoseOfLlavaInTransformers) {
  const auto model = MultimodalModel::load(kGoldens / "llava", std::nullopt);
  const SafetensorsFile golden(kGoldens / "llava.safetensors");
  const at::Tensor want =
      at::cat({golden.tensor(*golden.find("logits.0")), golden.tensor(*golden.find("logits.1"))});
  EXPECT_TRUE(tensor_near(logits_of(*model), want, {5e-5, 5e-5}));
}

TEST(MultimodalModelTest, SavedAndLoadedAgainGivesTheSameBits) {
  const TempDir dir;
  const auto model = MultimodalModel::load(kGoldens / "llava", std::nullopt);
  model->save(dir / "saved");
  model->save(dir / "saved");  // replaces
  const auto again = MultimodalModel::load(dir / "saved", std::nullopt);
  EXPECT_TRUE(same_bits(logits_of(*model), logits_of(*again)));
  ASSERT_EQ(model->parameters().size(), again->parameters().size());
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    EXPECT_EQ(model->parameters()[i].name, again->parameters()[i].name);
    EXPECT_TRUE(same_bits(model->parameters()[i].tensor, again->parameters()[i].tensor));
  }
  // The folder is a text model for any Llama program.
  const TextModel text = load_text_model(dir / "saved", std::nullopt);
  EXPECT_TRUE(same_bits(text.llama->embedding_VD(), model->backbone().embedding_VD()));
  EXPECT_EQ(Tokenizer::load(dir / "saved")->id_of("<image>"), 5);
}

TEST(MultimodalModelTest, FramesShareTheImageEncoder) {
  const TempDir dir;
  const std::string yaml =
      yaml_of(image_section("{type: pool, grid: [2, 2], hidden: 12, output: {rms: true}}") +
              "video: {encoder: {frames: 3, of: image}, adapter: {type: pool, grid: [1, 1], "
              "hidden: 10}}\n");
  const auto model = MultimodalModel::from_config(Config::parse(yaml), 3);
  EXPECT_TRUE(model->takes(Modality::kVideo));
  EXPECT_FALSE(model->takes(Modality::kAudio));
  EXPECT_EQ(model->num_tokens(Modality::kVideo, {at::zeros({3, 3, 28, 28}), 0}), 3);
  EXPECT_EQ(model->num_tokens(Modality::kImage, {at::zeros({1, 3, 28, 28}), 0}), 4);
  // <video> is no token here: its id stands beyond tokenizer and vocabulary.
  EXPECT_GE(model->plan_context().placeholder_id[2], model->backbone().config().vocab_size);
  std::set<std::string> groups;
  for (const NamedTensor& p : model->parameters())
    groups.insert(p.name.substr(0, p.name.find('.', p.name.find('.') + 1)));
  EXPECT_EQ(groups, (std::set<std::string>{"backbone.model", "backbone.lm_head", "encoder.image",
                                           "adapter.image", "adapter.video"}));
  model->save(dir / "saved");
  const auto again = MultimodalModel::load(dir / "saved", std::nullopt);
  EXPECT_EQ(again->plan_context().placeholder_id[2], model->plan_context().placeholder_id[2]);
  Example example;
  example.id = "clip";
  example.kinds = {Modality::kVideo, Modality::kImage};
  example.inputs = {{randn({3, 3, 28, 28}, 1), 0}, {randn({1, 3, 28, 28}, 2), 0}};
  example.plan =
      plan_prompt("<video> then <image>", example.kinds, {3, 4}, true, model->plan_context());
  const c10::NoGradGuard no_graph;
  const Batch batch = collate({example}, false);
  EXPECT_TRUE(same_bits(model->forward(batch), again->forward(batch)));
}

TEST(MultimodalModelTest, AdaptersStartAtTheSizeOfTheEmbeddings) {
  const auto model = MultimodalModel::from_config(
      Config::parse(yaml_of(image_section("{type: mlp, hidden: 12, output: {rms: true}}"))), 3);
  const double rms = model->backbone().embedding_VD().square().mean().sqrt().item<double>();
  bool found = false;
  for (const NamedTensor& p : model->parameters()) {
    if (p.name != "adapter.image.gain") continue;
    found = true;
    EXPECT_NEAR(p.tensor.item<double>(), rms, 1e-6 * rms);
  }
  EXPECT_TRUE(found);
}

TEST(MultimodalModelTest, DrawsDependOnTheSeedAlone) {
  const std::string yaml = yaml_of(image_section("{type: mlp, hidden: 12}"));
  const auto first = [&](uint64_t seed) {
    const auto model = MultimodalModel::from_config(Config::parse(yaml), seed);
    for (const NamedTensor& p : model->parameters())
      if (p.name == "adapter.image.linear_1.weight") return p.tensor;
    ADD_FAILURE() << "no adapter.image.linear_1.weight";
    return at::zeros({1});
  };
  EXPECT_TRUE(same_bits(first(1), first(1)));
  EXPECT_FALSE(same_bits(first(1), first(2)));
}

TEST(MultimodalModelTest, TextAloneFromScratchIsAPlainFolder) {
  const TempDir dir;
  const std::string yaml =
      fmt::format("backbone: {{random: {{config: {0}/config.json, tokenizer: {0}}}}}\n",
                  (kGoldens / "llava").string());
  const auto model = MultimodalModel::from_config(Config::parse(yaml), 3);
  EXPECT_FALSE(model->takes(Modality::kImage));
  model->save(dir / "saved");
  EXPECT_FALSE(MultimodalModel::is_folder(dir / "saved"));
  const TextModel text = load_text_model(dir / "saved", std::nullopt);
  EXPECT_TRUE(same_bits(text.llama->embedding_VD(), model->backbone().embedding_VD()));
  EXPECT_EQ(ChatTemplate::load(dir / "saved").render_text({{"user", "a"}}, true),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_TRUE((throws_with<CheckpointError>([&] { MultimodalModel::load(dir / "saved", {}); },
                                            {"multimodal.yaml"})));
}

TEST(MultimodalModelTest, GoesOnFromItsOwnFolder) {
  const auto model = MultimodalModel::from_config(
      Config::parse(fmt::format("folder: {}\n", (kGoldens / "llava").string())), 3);
  EXPECT_TRUE(same_bits(logits_of(*model),
                        logits_of(*MultimodalModel::load(kGoldens / "llava", std::nullopt))));
}

TEST(MultimodalModelTest, NamesWhatIsWrongInTheYaml) {
  const auto fails = [](const std::string& yaml, std::initializer_list<std::string_view> words) {
    return throws_with<ConfigError>([&] { MultimodalModel::from_config(Config::parse(yaml), 1); },
                                    words);
  };
  EXPECT_TRUE(fails("image: {}\n", {"backbone"}));
  EXPECT_TRUE(fails("backbone: {}\n", {"backbone"}));
  EXPECT_TRUE(fails(yaml_of("smell: {}\n"), {"smell"}));
  EXPECT_TRUE(fails(yaml_of(image_section("{type: mlp, hidden: 4, depth: 3}")), {"depth"}));
  EXPECT_TRUE(fails(yaml_of("video: {encoder: {frames: 2, of: image}, adapter: {type: mlp, hidden: "
                            "4}}\n"),
                    {"image"}));
  EXPECT_TRUE(fails(yaml_of(fmt::format("audio: {{encoder: {{model: {}}}, adapter: {{type: mlp, "
                                        "hidden: 4}}}}\n",
                                        (kGoldens / "llava/encoder_image").string())),
                    {"audio", "image"}));
}

TEST(MultimodalModelTest, NamesWhatIsWrongInTheFolder) {
  const TempDir dir;
  fs::copy(kGoldens / "llava", dir / "m", fs::copy_options::recursive);
  SafetensorsFile file(kGoldens / "llava/adapters.safetensors");
  std::vector<NamedTensor> tensors;
  for (const TensorInfo& info : file.infos()) {
    if (info.name != "image.linear_2.bias") tensors.push_back({info.name, file.tensor(info)});
  }
  save_safetensors(dir / "m/adapters.safetensors", tensors);
  const auto load = [&] { MultimodalModel::load(dir / "m", std::nullopt); };
  EXPECT_TRUE(
      (throws_with<CheckpointError>(load, {"adapters.safetensors", "image.linear_2.bias"})));
  tensors.push_back({"image.linear_2.bias", at::zeros({32})});
  tensors.push_back({"image.linear_3.bias", at::zeros({32})});
  save_safetensors(dir / "m/adapters.safetensors", tensors);
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"image.linear_3.bias"})));
  tensors.pop_back();
  save_safetensors(dir / "m/adapters.safetensors", tensors);
  EXPECT_NO_THROW(load());
  std::string yaml = read_bytes(dir / "m/multimodal.yaml");
  dir.write("m/multimodal.yaml", yaml + "audios: {}\n");
  EXPECT_TRUE((throws_with<ConfigError>(load, {"multimodal.yaml", "audios"})));
  yaml.replace(yaml.find("placeholder_id: 5"), 17, "placeholder_id: 7");
  dir.write("m/multimodal.yaml", yaml);
  EXPECT_TRUE((throws_with<ConfigError>(load, {"placeholder_id", "<image>", "5"})));
}

}  // namespace
}  // namespace euromodal
