// lora_objectives_test.cpp — LoRA on the encoder of classification and CTC: its gradients are those
// of the merged weights by the chain rule, resumed = uninterrupted and packed = unpacked bit for
// bit with dropout, and the folder's LoRA goes along into a coupled model.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/lora.h"
#include "core/log.h"
#include "multimodal/encoder_folder.h"
#include "tests/support/gradcheck.h"
#include "tests/support/tensor_near.h"
#include "tests/training/tiny_world.h"
#include "training/objectives/registry.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class LoraObjectivesTest : public testing::TestWithParam<const char*> {
 protected:
  LoraObjectivesTest() : world_(dir_) {
    set_log_level(LogLevel::kError);
    world_.models();
  }
  ~LoraObjectivesTest() override { set_log_level(LogLevel::kInfo); }

  fs::path base() const { return world_.path(GetParam()) / "model"; }
  /// A run that trains the LoRA of the trained encoder, and the head.
  std::vector<std::string> lora_run(std::vector<std::string> more = {}) const {
    std::vector<std::string> out = {
        fmt::format("objective.encoder={{model: {}, lora: {{dropout: 0.1, groups: [{{rank: 3, "
                    "alpha: 6, targets: [q_proj, out_proj]}}, {{rank: 2, alpha: 2, targets: "
                    "[fc2]}}]}}}}",
                    base().string()),
        "trainable=[\"*.lora_*\", \"head.*\"]",
        "optimizer=[{params: [\"*\"], type: adamw, lr: 0.02, betas: [0.9, 0.95], eps: 1.0e-8, "
        "weight_decay: 0.0}]"};
    out.insert(out.end(), more.begin(), more.end());
    return out;
  }
  fs::path run(const std::string& name, const std::vector<std::string>& set,
               const std::string& resume = "") const {
    EXPECT_EQ(world_.run(world_.config(GetParam(), name), set, resume), TrainEnd::kDone);
    return world_.path(name) / "model";
  }
  std::unique_ptr<Objective> objective(const std::string& encoder,
                                       const std::string& more = "") const {
    std::vector<std::string> set = {"objective.encoder=" + encoder};
    if (!more.empty()) set.push_back(more);
    return make_objective(
        Config::load(world_.config(GetParam(), "objective"), set).child("objective"), 7, true);
  }
  double loss_and_gradients(Objective& objective) const {
    const auto samples = Dataset::open(world_.path(std::string(GetParam()) + ".jsonl"));
    std::vector<Example> examples;
    for (const int64_t i : {0, 3, 5})
      examples.push_back(objective.prepare(samples->get(i), Rng(3), /*training=*/false));
    const LossSums sums = objective.loss(collate(std::move(examples), true), /*training=*/true);
    sums.loss_sum.backward();
    return sums.loss_sum.item<double>();
  }

  TempDir dir_;
  TinyWorld world_;
};

std::map<std::string, at::Tensor> by_name(const Objective& objective) {
  std::map<std::string, at::Tensor> out;
  for (const NamedTensor& p : objective.parameters()) out[p.name] = p.tensor;
  return out;
}

TEST_P(LoraObjectivesTest, GradientsAreThoseOfTheMergedWeights) {
  constexpr double kScale = 6.0 / 3.0;
  const auto tuned = objective(
      fmt::format("{{model: {}, lora: {{rank: 3, alpha: 6, targets: [q_proj, out_proj, fc2]}}}}",
                  base().string()),
      "objective.merge_lora=true");
  uint64_t seed = 30;
  for (const auto& [name, tensor] : by_name(*tuned)) {
    if (name.find(".lora_") == std::string::npos) continue;
    at::Tensor(tensor).copy_(randn(tensor.sizes(), ++seed).mul_(0.3)).requires_grad_(true);
  }
  tuned->save_model(dir_ / "merged");
  EXPECT_FALSE(fs::exists(dir_ / "merged" / kEncoderLora));
  const auto whole = objective(fmt::format("{{model: {}}}", (dir_ / "merged").string()));
  for (const auto& [name, tensor] : by_name(*whole)) at::Tensor(tensor).requires_grad_(true);

  const double loss = loss_and_gradients(*tuned), want = loss_and_gradients(*whole);
  EXPECT_NEAR(loss, want, 1e-4 * want);
  const auto mine = by_name(*tuned), its = by_name(*whole);
  int pairs = 0;
  for (const auto& [name, a_RI] : mine) {
    if (!name.ends_with(".lora_A.weight")) continue;
    const std::string linear = name.substr(0, name.size() - std::strlen(".lora_A.weight"));
    const at::Tensor b_OR = mine.at(linear + ".lora_B.weight"),
                     g_OI = its.at(linear + ".weight").grad();
    const at::Tensor da = at::mm(b_OR.detach().t(), g_OI) * kScale,
                     db = at::mm(g_OI, a_RI.detach().t()) * kScale;
    EXPECT_GT(da.abs().max().item<double>(), 1e-5) << linear;
    EXPECT_TRUE(tensor_near(a_RI.grad(), da, {1e-4, 1e-3})) << linear;
    EXPECT_TRUE(tensor_near(b_OR.grad(), db, {1e-4, 1e-3})) << linear;
    ++pairs;
  }
  EXPECT_EQ(pairs, 3);
}

TEST_P(LoraObjectivesTest, ExactlyTheLoraAndTheHeadAreTrained) {
  const fs::path before = run("start", lora_run({"steps=0"})), after = run("end", lora_run());
  EXPECT_EQ(read_bytes(before / "model.safetensors"), read_bytes(after / "model.safetensors"));
  EXPECT_NE(read_bytes(before / "head.safetensors"), read_bytes(after / "head.safetensors"));
  const SafetensorsFile first(before / kEncoderLora / "adapter_model.safetensors"),
      last(after / kEncoderLora / "adapter_model.safetensors");
  EXPECT_EQ(first.infos().size(), 6U);
  for (const TensorInfo& info : first.infos())
    EXPECT_FALSE(first.tensor(info).equal(last.tensor(*last.find(info.name)))) << info.name;
}

TEST_P(LoraObjectivesTest, ResumedAndUnpackedRunsGiveTheSameBits) {
  run("whole", lora_run({"checkpoint.every=2", "checkpoint.keep=9"}));
  run("again", lora_run(), (world_.path("whole") / "checkpoints/step-00000004").string());
  EXPECT_EQ(world_.state("again"), world_.state("whole"));
  run("single", lora_run({"batch.pack=false", "batch.workers=0"}));
  EXPECT_EQ(world_.state("single"), world_.state("whole"));
  std::vector<std::string> plain = lora_run();
  plain[0].replace(plain[0].find("dropout: 0.1"), 12, "dropout: 0.0");
  run("plain", plain);
  EXPECT_NE(world_.state("plain"), world_.state("whole"));  // the dropout is there
}

TEST_P(LoraObjectivesTest, TheFoldersLoraGoesAlong) {
  const fs::path tuned = run("tuned", lora_run());
  const auto encoder = load_encoder_folder(tuned), plain = load_encoder_folder(base());
  EXPECT_EQ(lora_parameters(encoder->linears()).size(), 6U);
  EXPECT_NE(encoder_identity(*encoder), encoder_identity(*plain));
  // To go on with it, nothing is said; another one on top is refused.
  const auto again = objective(fmt::format("{{model: {}}}", tuned.string()));
  EXPECT_EQ(by_name(*again).size(),
            by_name(*objective(fmt::format("{{model: {}}}", base().string()))).size() + 6);
  EXPECT_TRUE((throws_with<ConfigError>(
      [&] {
        objective(fmt::format("{{model: {}, lora: {{rank: 1, alpha: 1, targets: [fc1]}}}}",
                              tuned.string()));
      },
      {"encoder.lora", "already"})));
  const std::string kind = GetParam() == std::string("pictures") ? "image" : "audio";
  world_.run(world_.config("adapters", "coupled"),
             {fmt::format("objective.model.{}.encoder.model={}", kind, tuned.string()), "steps=0"});
  EXPECT_EQ(read_bytes(world_.path("coupled") / "model" / ("lora_encoder_" + kind) /
                       "adapter_model.safetensors"),
            read_bytes(tuned / kEncoderLora / "adapter_model.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Objectives, LoraObjectivesTest, testing::Values("pictures", "sounds"),
                         [](const auto& test) { return std::string(test.param); });

TEST(LoraTargetsTest, LinearsOfAPoolingHeadAndNotItsFusedAttention) {
  const auto encoder =
      load_encoder_folder(fs::path(EM_SOURCE_DIR) / "tests/encoders/goldens/siglip");
  const auto put = [&](const std::string& target) {
    const Config config =
        Config::parse(fmt::format("lora: {{rank: 2, alpha: 2, targets: [\"{}\"]}}", target));
    configure_lora(config, encoder->linears(), 1, "encoder");
  };
  for (const char* target : {"head.attention.in_proj", "head.attention.out_proj"})
    EXPECT_TRUE((throws_with<ConfigError>([&] { put(target); }, {target, "fused attention"})));
  EXPECT_FALSE(has_lora(encoder->linears()));
  put("head.mlp.fc2");
  EXPECT_EQ(lora_parameters(encoder->linears()).size(), 2U);
}

}  // namespace
}  // namespace euromodal
