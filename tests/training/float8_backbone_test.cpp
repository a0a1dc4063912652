// float8_backbone_test.cpp — training on a backbone whose frozen linears are kept in float8
// (backbone: {weights: float8}) is, bit for bit, training on the rounded backbone; what is saved is
// that backbone.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/float8_model.h"
#include "core/log.h"
#include "tests/support/tensor_near.h"
#include "tests/training/tiny_world.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class Float8BackboneTest : public testing::TestWithParam<const char*> {
 protected:
  Float8BackboneTest() : world_(dir_) {
    set_log_level(LogLevel::kError);
    world_.models();
    // The backbone, rounded and written as an ordinary folder.
    const fs::path text = world_.path("text") / "model", rounded = dir_ / "rounded";
    fs::copy(text, rounded, fs::copy_options::recursive);
    TextModel model = load_text_model(text, parse_dtype(GetParam()));
    plain_bytes_ = bytes(model);
    round_blocks_to_float8(model);
    float8_bytes_ = bytes(model);
    save_text_model(rounded, model.config, plain_parameters(model));
  }
  ~Float8BackboneTest() override { set_log_level(LogLevel::kInfo); }

  static int64_t bytes(const TextModel& model) {
    int64_t out = 0;
    for (const NamedTensor& p : model.parameters) out += static_cast<int64_t>(p.tensor.nbytes());
    return out;
  }
  /// A run that trains adapters and a LoRA on the backbone.
  void run(const std::string& name, bool float8, std::vector<std::string> more = {},
           const std::string& resume = "") {
    const fs::path folder = float8 ? world_.path("text") / "model" : dir_ / "rounded";
    std::vector<std::string> set = {
        "objective.model.backbone={model: " + folder.string() +
            (float8 ? ", weights: float8" : "") +
            ", lora: {rank: 2, alpha: 4, dropout: 0.1, targets: [q_proj, down_proj]}}",
        std::string("objective.model.dtype=") + GetParam(),
        "trainable=[\"*.lora_*\", \"adapter.*\"]",
        "optimizer=[{params: [\"*\"], type: adamw, lr: 0.02, betas: [0.9, 0.95], eps: 1.0e-8, "
        "weight_decay: 0.0}]"};
    set.insert(set.end(), more.begin(), more.end());
    EXPECT_EQ(world_.run(world_.config("adapters", name), set, resume), TrainEnd::kDone);
  }
  void same_model(const std::string& a, const std::string& b) {
    for (const char* file : {"model.safetensors", "adapters.safetensors", "config.json"}) {
      EXPECT_EQ(read_bytes(world_.path(a) / "model" / file),
                read_bytes(world_.path(b) / "model" / file))
          << file;
    }
  }

  TempDir dir_;
  TinyWorld world_;
  int64_t plain_bytes_ = 0, float8_bytes_ = 0;
};

TEST_P(Float8BackboneTest, TrainsAsOnTheRoundedBackboneBitForBit) {
  EXPECT_LT(float8_bytes_, plain_bytes_);
  run("kept", true, {"checkpoint.every=2", "checkpoint.keep=9"});
  run("rounded_run", false);
  EXPECT_EQ(world_.state("kept"), world_.state("rounded_run"));
  same_model("kept", "rounded_run");
  run("again", true, {}, (world_.path("kept") / "checkpoints/step-00000002").string());
  EXPECT_EQ(world_.state("again"), world_.state("kept"));
  for (const char* mode : {"mlp", "layer"}) {
    run(mode, true, {std::string("objective.model.backbone.checkpointing=") + mode});
    EXPECT_EQ(world_.state(mode), world_.state("kept")) << mode;
  }
  // Merged into the rounded weights, which leaves float8.
  run("merged", true, {"objective.model.merge_lora=true"});
  run("merged_rounded", false, {"objective.model.merge_lora=true"});
  same_model("merged", "merged_rounded");
  EXPECT_FALSE(fs::exists(world_.path("merged") / "model/lora_backbone"));
}

TEST_P(Float8BackboneTest, ItsWeightsCannotBeTrained) {
  for (const char* pattern : {"backbone.*", "*.q_proj.weight", "*_scale"}) {
    EXPECT_TRUE((throws_with<ConfigError>(
        [&] { run("refused", true, {fmt::format("trainable=[\"{}\"]", pattern)}); },
        {"trainable", "proj.weight", "float8", "plain"})))
        << pattern;
  }
  EXPECT_TRUE((throws_with<ConfigError>(
      [&] { run("wrong", true, {"objective.model.backbone.weights=float4"}); },
      {"weights", "float4", "float8"})));
}

INSTANTIATE_TEST_SUITE_P(All, Float8BackboneTest, testing::Values("float32", "bfloat16"));

}  // namespace
}  // namespace euromodal
