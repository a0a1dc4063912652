// lora_model_test.cpp — LoRA in a coupled model: gradients reach exactly its tensors, packed = one
// by one bit for bit with dropout, the saved folder gives the same bits again, merged = unmerged,
// and what the folder does not say is an error.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "backbone/lora.h"
#include "multimodal/model.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

const fs::path kLlava = fs::path(EM_TEST_DIR) / "goldens/llava";

std::unique_ptr<MultimodalModel> lora_model(const std::string& more = "") {
  return MultimodalModel::from_config(
      Config::parse(fmt::format(
          "backbone:\n  model: {0}\n  lora: {{dropout: 0.2, rslora: true, groups: [{{rank: 3, "
          "alpha: 6, targets: [q_proj, v_proj]}}, {{rank: 2, alpha: 4, targets: [down_proj], "
          "layers: [1, 1]}}]}}\n"
          "image:\n  encoder: {{model: {0}/encoder_image, features: -2, lora: {{rank: 2, alpha: 4, "
          "dropout: 0.2, targets: [\"*.layers.0.mlp.fc1\", \"*.layers.1.self_attn.out_proj\"]}}}}\n"
          "  adapter: {{type: mlp, hidden: 12}}\n{1}",
          kLlava.string(), more)),
      3);
}

std::vector<NamedTensor> lora_of(const MultimodalModel& model) {
  std::vector<NamedTensor> out;
  for (const NamedTensor& p : model.parameters()) {
    if (p.name.find(".lora_") != std::string::npos) out.push_back(p);
  }
  return out;
}

/// A and B drawn: what a trained LoRA looks like.
void draw(const MultimodalModel& model) {
  uint64_t seed = 70;
  for (const NamedTensor& p : lora_of(model))
    at::Tensor(p.tensor).copy_(randn(p.tensor.sizes(), seed++) * 0.2);
}

/// Two questions, about one picture and about two (or as many as told).
std::vector<Example> examples_of(const MultimodalModel& model, bool training,
                                 const std::vector<uint64_t>& pictures = {1, 2}) {
  std::vector<Example> out;
  for (const uint64_t images : pictures) {
    Example example;
    example.id = fmt::format("{} pictures", images);
    std::vector<int64_t> tokens;
    for (uint64_t i = 0; i < images; ++i) {
      example.kinds.push_back(Modality::kImage);
      example.inputs.push_back({randn({1, 3, 28, 28}, 10 * out.size() + i), 0});
      tokens.push_back(model.num_tokens(Modality::kImage, example.inputs.back()));
    }
    example.plan = plan_prompt("is this a hat", example.kinds, tokens, true, model.plan_context());
    if (training) example.dropout_key = 900 + out.size();
    out.push_back(std::move(example));
  }
  return out;
}

at::Tensor logits_of(const MultimodalModel& model) {
  const c10::NoGradGuard no_graph;
  return model.backbone().logits(model.forward(collate(examples_of(model, false), true)));
}

TEST(LoraModelTest, GradientsReachExactlyTheLora) {
  const auto model = lora_model();
  draw(*model);
  ASSERT_EQ(lora_of(*model).size(), 2U * (5 + 2));
  for (NamedTensor& p : lora_of(*model)) p.tensor.requires_grad_(true);
  model->forward(collate(examples_of(*model, true), false)).square().sum().backward();
  for (const NamedTensor& p : model->parameters()) {
    const bool lora = p.name.find(".lora_") != std::string::npos;
    ASSERT_EQ(p.tensor.grad().defined(), lora) << p.name;
    if (lora) {
      EXPECT_GT(p.tensor.grad().abs().max().item<double>(), 0.0) << p.name;
    }
  }
}

// One picture a sample: the gradients of a trained encoder are summed picture by picture.
TEST(LoraModelTest, PackedEqualsOneByOneBitForBitWithDropout) {
  const auto run = [](bool packed) {
    const auto model = lora_model();
    draw(*model);
    for (NamedTensor& p : lora_of(*model)) p.tensor.requires_grad_(true);
    std::vector<at::Tensor> hidden;
    std::vector<std::vector<Example>> batches;
    for (Example& example : examples_of(*model, true, {1, 1, 1})) {
      if (batches.empty() || !packed) batches.emplace_back();
      batches.back().push_back(std::move(example));
    }
    for (std::vector<Example>& batch : batches) {
      const at::Tensor h_TD = model->forward(collate(std::move(batch), /*per_sample=*/true));
      h_TD.backward(at::ones_like(h_TD));
      hidden.push_back(h_TD.detach());
    }
    std::vector<at::Tensor> out = {at::cat(hidden)};
    for (const NamedTensor& p : lora_of(*model)) out.push_back(p.tensor.grad());
    return out;
  };
  const auto packed = run(true), single = run(false);
  for (size_t i = 0; i < packed.size(); ++i) EXPECT_TRUE(same_bits(packed[i], single[i])) << i;
}

TEST(LoraModelTest, DropsInTrainingOnly) {
  const auto model = lora_model();
  draw(*model);
  const c10::NoGradGuard no_graph;
  const auto hidden = [&](bool training) {
    return model->forward(collate(examples_of(*model, training), true));
  };
  EXPECT_TRUE(same_bits(hidden(false), hidden(false)));
  EXPECT_TRUE(same_bits(hidden(true), hidden(true)));
  EXPECT_FALSE(tensor_near(hidden(true), hidden(false), {1e-3, 1e-3}));
}

TEST(LoraModelTest, TheFolderGivesTheSameBitsAgain) {
  const TempDir dir;
  const auto model = lora_model();
  draw(*model);
  model->save(dir / "m");
  EXPECT_TRUE(fs::exists(dir / "m/lora_backbone/adapter_config.json"));
  EXPECT_TRUE(fs::exists(dir / "m/lora_encoder_image/adapter_model.safetensors"));
  const auto again = MultimodalModel::load(dir / "m", std::nullopt);
  EXPECT_TRUE(same_bits(logits_of(*again), logits_of(*model)));
  ASSERT_EQ(again->parameters().size(), model->parameters().size());
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    EXPECT_EQ(again->parameters()[i].name, model->parameters()[i].name);
    EXPECT_TRUE(same_bits(again->parameters()[i].tensor, model->parameters()[i].tensor));
  }
  // The text model below takes its LoRA along; a second one on top is refused.
  EXPECT_EQ(lora_parameters(load_text_model(dir / "m", {}).llama->linears()).size(), 10U);
  EXPECT_TRUE((throws_with<ConfigError>(
      [&] {
        MultimodalModel::from_config(
            Config::parse(fmt::format("backbone: {{model: {}, lora: {{rank: 1, alpha: 1, targets: "
                                      "[q_proj]}}}}\n",
                                      (dir / "m").string())),
            1);
      },
      {"backbone.lora", "already"})));
}

TEST(LoraModelTest, MergedIsNearAndLeavesTheModelAsItWas) {
  const TempDir dir;
  const auto model = lora_model("merge_lora: true\n");
  draw(*model);
  const at::Tensor want = logits_of(*model);
  model->save(dir / "merged");
  EXPECT_TRUE(same_bits(logits_of(*model), want));
  EXPECT_FALSE(fs::exists(dir / "merged/lora_backbone"));
  EXPECT_FALSE(fs::exists(dir / "merged/lora_encoder_image"));
  const auto merged = MultimodalModel::load(dir / "merged", std::nullopt);
  EXPECT_TRUE(lora_of(*merged).empty());
  EXPECT_TRUE(tensor_near(logits_of(*merged), want, {1e-4, 1e-4}));
  EXPECT_FALSE(tensor_near(logits_of(*lora_model()), want, {1e-2, 1e-2}));  // the LoRA matters
  // Merging later, from the folder with the LoRA beside the weights.
  const auto plain = lora_model();
  draw(*plain);
  plain->save(dir / "plain");
  MultimodalModel::from_config(
      Config::parse(fmt::format("folder: {}\nmerge_lora: true\n", (dir / "plain").string())), 1)
      ->save(dir / "late");
  EXPECT_TRUE(
      same_bits(logits_of(*MultimodalModel::load(dir / "late", std::nullopt)), logits_of(*merged)));
}

TEST(LoraModelTest, AFolderThatDisagreesWithItsDescriptionIsAnError) {
  const TempDir dir;
  const auto model = lora_model();
  model->save(dir / "m");
  const auto load = [&] { MultimodalModel::load(dir / "m", std::nullopt); };
  fs::rename(dir / "m/lora_encoder_image", dir / "away");
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"lora_encoder_image"})));
  fs::rename(dir / "away", dir / "m/lora_encoder_image");
  EXPECT_NO_THROW(load());
  std::string yaml = read_bytes(dir / "m/multimodal.yaml");
  const auto at = yaml.find("lora: [");
  ASSERT_NE(at, std::string::npos);
  dir.write("m/multimodal.yaml", yaml.substr(0, at));
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"lora_backbone", "multimodal.yaml"})));
}

}  // namespace
}  // namespace euromodal
