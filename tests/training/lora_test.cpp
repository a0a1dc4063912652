// lora_test.cpp — training LoRA on a coupled model: gradients reach exactly its tensors, resumed =
// uninterrupted and packed = unpacked bit for bit (with dropout), the saved folder gives the same
// logits again, merged = unmerged, and a PEFT folder is a start.
#include "backbone/lora.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "core/log.h"
#include "inference/caption.h"
#include "tests/support/gradcheck.h"
#include "tests/support/tensor_near.h"
#include "tests/training/tiny_world.h"
#include "training/objectives/registry.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

/// What makes an "adapters" run of the tiny world one that trains LoRA instead.
std::vector<std::string> lora_run(std::vector<std::string> more = {}) {
  std::vector<std::string> out = {
      "objective.model.backbone.lora={dropout: 0.1, rslora: true, groups: [{rank: 3, alpha: 6, "
      "targets: [q_proj, v_proj]}, {rank: 2, alpha: 4, targets: [down_proj], layers: [1, 1]}]}",
      "objective.model.image.encoder.lora={rank: 2, alpha: 4, dropout: 0.1, targets: [fc1, "
      "out_proj]}",
      "trainable=[\"*.lora_*\"]",
      "optimizer=[{params: [\"*\"], type: adamw, lr: 0.02, betas: [0.9, 0.95], eps: 1.0e-8, "
      "weight_decay: 0.0}]"};
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

class LoraTrainingTest : public testing::Test {
 protected:
  LoraTrainingTest() : world_(dir_) {
    set_log_level(LogLevel::kError);
    world_.models();
  }
  ~LoraTrainingTest() override { set_log_level(LogLevel::kInfo); }

  fs::path run(const std::string& name, const std::vector<std::string>& overrides,
               const std::string& resume = "") const {
    EXPECT_EQ(world_.run(world_.config("adapters", name), overrides, resume), TrainEnd::kDone);
    return world_.path(name) / "model";
  }

  /// Logits of a question about a picture and a sound.
  at::Tensor logits(const fs::path& folder) const {
    const auto model = MultimodalModel::load(folder, std::nullopt);
    const Example example = caption_example(
        *model,
        {{Modality::kImage,
          {.name = (dir_ / "media/1.ppm").string(), .bytes = {}, .in_memory = false}},
         {Modality::kAudio,
          {.name = (dir_ / "media/2.wav").string(), .bytes = {}, .in_memory = false}}},
        "balena <image> <audio>", true);
    const c10::NoGradGuard no_graph;
    return model->backbone().logits(model->forward(collate({example}, true)));
  }

  TempDir dir_;
  TinyWorld world_;
};

std::map<std::string, at::Tensor> lora_tensors(const fs::path& folder) {
  std::map<std::string, at::Tensor> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile stored(entry.path());
    for (const TensorInfo& info : stored.infos())
      out[fs::relative(entry.path().parent_path(), folder).string() + ":" + info.name] =
          stored.tensor(info).clone();
  }
  return out;
}

TEST_F(LoraTrainingTest, GradientsReachExactlyTheLora) {
  const auto before = lora_tensors(run("start", lora_run({"steps=0"}))),
             after = lora_tensors(run("end", lora_run()));
  ASSERT_EQ(before.size(), after.size());
  int trained = 0;
  for (const auto& [name, tensor] : before) {
    const bool lora = name.find(".lora_") != std::string::npos;
    EXPECT_EQ(tensor.equal(after.at(name)), !lora) << name;
    trained += lora ? 1 : 0;
    if (name.ends_with("lora_B.weight")) {
      EXPECT_EQ(tensor.abs().max().item<double>(), 0.0) << name;
    }
  }
  EXPECT_EQ(trained, 2 * (5 + 2));  // q and v of two layers, one down; fc1 and out_proj
}

TEST_F(LoraTrainingTest, ResumedEqualsUninterruptedBitForBit) {
  run("whole", lora_run({"checkpoint.every=1", "checkpoint.keep=9"}));
  for (const int64_t step : {1, 4}) {
    const std::string again = fmt::format("again_{}", step);
    run(again, lora_run(),
        (world_.path("whole") / "checkpoints" / fmt::format("step-{:08}", step)).string());
    EXPECT_EQ(world_.state(again), world_.state("whole")) << "resumed after step " << step;
  }
}

TEST_F(LoraTrainingTest, PackedEqualsUnpackedBitForBit) {
  run("packed", lora_run({"batch.pack=true"}));
  run("single", lora_run({"batch.pack=false", "batch.workers=0"}));
  EXPECT_EQ(world_.state("packed"), world_.state("single"));
  // The dropout is there, and it is another one with another seed.
  run("none", lora_run({"objective.model.backbone.lora.dropout=0",
                        "objective.model.image.encoder.lora.dropout=0"}));
  EXPECT_NE(world_.state("none"), world_.state("packed"));
}

TEST_F(LoraTrainingTest, TheFolderGivesTheSameLogitsAgainAndMergedOnesAreNear) {
  const fs::path plain = run("plain", lora_run()),
                 merged = run("merged", lora_run({"objective.model.merge_lora=true"}));
  EXPECT_TRUE(fs::exists(plain / "lora_backbone/adapter_config.json"));
  EXPECT_TRUE(fs::exists(plain / "lora_encoder_image/adapter_config.json"));
  EXPECT_FALSE(fs::exists(plain / "lora_encoder_audio"));
  EXPECT_FALSE(fs::exists(merged / "lora_backbone"));
  EXPECT_FALSE(fs::exists(merged / "lora_encoder_image"));
  const at::Tensor want = logits(plain);
  EXPECT_TRUE(tensor_near(logits(merged), want, {1e-4, 1e-4}));
  EXPECT_FALSE(tensor_near(logits(run("fresh", lora_run({"steps=0"}))), want, {1e-2, 1e-2}));
  // Going on from the folder: nothing is trained, the LoRA comes and goes as it was; or it is
  // merged then.
  const std::string folder = "objective.model={folder: " + plain.string();
  const fs::path again = run("again", lora_run({folder + "}", "steps=0"}));
  EXPECT_TRUE(same_bits(logits(again), want));
  EXPECT_EQ(lora_tensors(again).size(), lora_tensors(plain).size());
  const fs::path late = run("late", lora_run({folder + ", merge_lora: true}", "steps=0"}));
  EXPECT_FALSE(fs::exists(late / "lora_backbone"));
  EXPECT_TRUE(tensor_near(logits(late), want, {1e-4, 1e-4}));
  // What the description does not name, or names and lacks, is an error.
  fs::remove_all(again / "lora_encoder_image");
  EXPECT_TRUE((throws_with<CheckpointError>([&] { logits(again); }, {"lora_encoder_image"})));
  fs::copy(plain / "lora_backbone", late / "lora_backbone");
  EXPECT_TRUE((throws_with<CheckpointError>([&] { logits(late); }, {"lora_backbone"})));
}

TEST_F(LoraTrainingTest, ATextModelsFolderKeepsItsLora) {
  const std::string lora = "objective.model.backbone.lora={rank: 2, alpha: 4, targets: [\"*\"]}";
  const std::vector<std::string> set = {
      "objective.model.backbone={model: " + (world_.path("text") / "model").string() + "}", lora,
      "trainable=[\"*.lora_*\"]", lora_run()[3]};
  world_.run(world_.config("text", "tuned"), set);
  const fs::path model = world_.path("tuned") / "model";
  const TextModel text = load_text_model(model, std::nullopt);
  EXPECT_TRUE(has_lora(text.llama->linears()));
  EXPECT_EQ(lora_parameters(text.llama->linears()).size(), 28U);
  EXPECT_TRUE(same_bits(text.llama->embedding_VD(),
                        load_text_model(world_.path("text") / "model", {}).llama->embedding_VD()));
  // Another LoRA on top is refused; its PEFT folder is a start for the plain model.
  EXPECT_TRUE((throws_with<ConfigError>(
      [&] {
        world_.run(world_.config("text", "twice"),
                   {"objective.model.backbone={model: " + model.string() + "}", lora});
      },
      {"objective.model.backbone.lora", "already"})));
  const std::string peft =
      "objective.model.backbone.lora={peft: " + (model / "lora_backbone").string() + "}";
  world_.run(world_.config("text", "from_peft"), {set[0], peft, set[2], set[3], "steps=0"});
  EXPECT_EQ(read_bytes(world_.path("from_peft") / "model/lora_backbone/adapter_model.safetensors"),
            read_bytes(model / "lora_backbone/adapter_model.safetensors"));
}

/// A text run on a backbone whose head is a matrix of its own, and one of LoRA on that head.
class LoraHeadTest : public LoraTrainingTest {
 protected:
  LoraHeadTest() {
    Json config = read_json(dir_ / "backbone.json");
    config["tie_word_embeddings"] = false;
    write_text_atomic(dir_ / "untied.json", config.dump());
    EXPECT_EQ(world_.run(world_.config("text", "untied"),
                         {fmt::format("objective.model.backbone={{random: {{config: {}, tokenizer: "
                                      "{}/configs/nano/tokenizer}}}}",
                                      (dir_ / "untied.json").string(), EM_SOURCE_DIR)}),
              TrainEnd::kDone);
  }
  std::string backbone(const std::string& more = "") const {
    return fmt::format("objective.model.backbone={{model: {}{}}}",
                       (world_.path("untied") / "model").string(), more);
  }
  std::unique_ptr<Objective> objective(const std::vector<std::string>& set) const {
    return make_objective(Config::load(world_.config("text", "objective"), set).child("objective"),
                          7, true);
  }
  double loss_and_gradients(Objective& objective) const {
    const auto samples = Dataset::open(dir_ / "text.jsonl");
    std::vector<Example> examples;
    for (const int64_t i : {0, 2, 3})
      examples.push_back(objective.prepare(samples->get(i), Rng(3), /*training=*/false));
    const at::Tensor loss = objective.loss(collate(std::move(examples), true), true).loss_sum;
    loss.backward();
    return loss.item<double>();
  }
};

TEST_F(LoraHeadTest, GradientsAreThoseOfTheMergedHead) {
  const auto tuned = objective(
      {backbone(", lora: {rank: 3, alpha: 6, targets: [lm_head]}"), "objective.z_loss=0.01"});
  std::map<std::string, at::Tensor> lora;
  uint64_t seed = 50;
  for (const NamedTensor& p : tuned->parameters()) {
    if (p.name.find("lm_head.lora_") == std::string::npos) continue;
    lora[p.name] = at::Tensor(p.tensor).copy_(randn(p.tensor.sizes(), ++seed).mul_(0.1));
    at::Tensor(p.tensor).requires_grad_(true);
  }
  ASSERT_EQ(lora.size(), 2U);
  const auto whole = objective({backbone(), "objective.z_loss=0.01"});
  const at::Tensor a_RI = lora.at("backbone.lm_head.lora_A.weight"),
                   b_OR = lora.at("backbone.lm_head.lora_B.weight");
  at::Tensor head_VD;
  for (const NamedTensor& p : whole->parameters()) {
    if (p.name == "backbone.lm_head.weight") head_VD = p.tensor;
  }
  head_VD.add_(at::mm(b_OR.detach(), a_RI.detach()), 2.0).requires_grad_(true);
  const double want = loss_and_gradients(*whole);
  EXPECT_NEAR(loss_and_gradients(*tuned), want, 1e-4 * want);
  const at::Tensor g_VD = head_VD.grad();
  EXPECT_TRUE(tensor_near(a_RI.grad(), at::mm(b_OR.detach().t(), g_VD) * 2.0, {1e-4, 1e-3}));
  EXPECT_TRUE(tensor_near(b_OR.grad(), at::mm(g_VD, a_RI.detach().t()) * 2.0, {1e-4, 1e-3}));
}

TEST_F(LoraHeadTest, TrainsSavesAndComesBack) {
  const std::vector<std::string> set = {
      backbone(", lora: {rank: 2, alpha: 4, dropout: 0.2, targets: [lm_head, q_proj]}"),
      "trainable=[\"*.lora_*\"]", lora_run()[3]};
  const auto train = [&](const std::string& name, std::vector<std::string> more,
                         const std::string& resume = "") {
    more.insert(more.begin(), set.begin(), set.end());
    EXPECT_EQ(world_.run(world_.config("text", name), more, resume), TrainEnd::kDone);
    return world_.state(name);
  };
  const std::string whole = train("whole", {"checkpoint.every=2", "checkpoint.keep=9"});
  EXPECT_EQ(train("single", {"batch.pack=false", "batch.workers=0"}), whole);
  EXPECT_EQ(train("again", {}, (world_.path("whole") / "checkpoints/step-00000004").string()),
            whole);
  EXPECT_NE(train("dry", {"objective.model.backbone.lora.dropout=0"}), whole);
  const auto logits_of = [&](const TextModel& model) {
    const at::Tensor ids_T = at::arange(10, 30, at::kLong);
    const Segments rows = Segments::one(20);
    const c10::NoGradGuard no_graph;
    return model.llama->logits(model.llama->forward(model.llama->embed(ids_T, rows), rows));
  };
  const TextModel tuned = load_text_model(world_.path("whole") / "model", std::nullopt);
  const at::Tensor with = logits_of(tuned);
  EXPECT_FALSE(
      tensor_near(with, logits_of(load_text_model(world_.path("untied") / "model", std::nullopt)),
                  {1e-3, 1e-3}));
  merge_lora(tuned.llama->linears());
  EXPECT_TRUE(tensor_near(logits_of(tuned), with, {1e-4, 1e-4}));
  EXPECT_TRUE((throws_with<ConfigError>([&] { train("taught", {"objective.distill={}"}); },
                                        {"objective.distill", "lm_head"})));
}

}  // namespace
}  // namespace euromodal
