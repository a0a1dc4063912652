// next_token_test.cpp — the language modelling objective: what samples weigh, z-loss, distillation
// from the text-only prompt, augmented media, text alone in a mixture.
#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/distillation/distillation_ref.h"
#include "core/json.h"
#include "core/log.h"
#include "multimodal/model.h"
#include "tests/support/gradcheck.h"
#include "tests/support/tensor_near.h"
#include "tests/training/tiny_world.h"
#include "training/objectives/labelled_rows.h"
#include "training/objectives/registry.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

std::vector<Json> next_token_rows(const fs::path& run) {
  std::vector<Json> out;
  std::istringstream lines(read_bytes(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) out.push_back(Json::parse(line));
  return out;
}

class NextTokenTest : public testing::Test {
 protected:
  NextTokenTest() : world_(dir_) { set_log_level(LogLevel::kError); }
  ~NextTokenTest() override { set_log_level(LogLevel::kInfo); }

  // The objective of a run's YAML and its first examples of a data set.
  std::unique_ptr<Objective> objective(const std::string& name, const std::string& more = "") {
    const std::string file = (dir_ / (name + "_objective.yaml")).string();
    write_text_atomic(file, world_.yaml(name, name) + more);
    const Config config = Config::load(file, sets_);
    return make_objective(config.child("objective"), 7, /*deterministic=*/true);
  }
  Batch batch(const Objective& objective, const std::string& data, std::vector<int64_t> indices,
              bool training = true, uint64_t seed = 3) {
    const auto samples = Dataset::open(dir_ / data);
    std::vector<Example> examples;
    for (const int64_t i : indices)
      examples.push_back(objective.prepare(samples->get(i), Rng(seed).fork("sample", i), training));
    return collate(std::move(examples), /*per_sample=*/true);
  }
  std::string data(const std::string& name) const {
    return fmt::format("data=[{{path: {}}}]", (dir_ / name).string());
  }

  TempDir dir_;
  TinyWorld world_;
  std::vector<std::string> sets_;
};

TEST_F(NextTokenTest, WeightsOfSamplesAreWhatTheRuleSays) {
  const auto weights = [](const std::string& yaml) {
    return LossWeights::parse(Config::parse(yaml));
  };
  EXPECT_TRUE(weights("{}").all_one());
  EXPECT_EQ(weights("{}").of_sample(0, 9), 9.0);
  EXPECT_EQ(weights("loss_weight: sample").of_sample(0, 9), 1.0);
  EXPECT_EQ(weights("loss_weight: sqrt").of_sample(0, 9), 3.0);
  EXPECT_EQ(weights("{loss_weight: sqrt, kind_weights: {audio: 2}}").of_sample(2, 9), 6.0);
  EXPECT_FALSE(weights("kind_weights: {audio: 2}").all_one());
  const auto fails = [&](const std::string& yaml, std::initializer_list<std::string_view> words) {
    return throws_with<ConfigError>([&] { weights(yaml); }, words);
  };
  EXPECT_TRUE(fails("loss_weight: mean", {"loss_weight", "mean", "sqrt"}));
  EXPECT_TRUE(fails("kind_weights: {image: -1}", {"kind_weights.image", "-1"}));
  EXPECT_TRUE(fails("kind_weights: {text: 0, image: 0, audio: 0, video: 0}", {"all are 0"}));
  // Sums are exact, so that every order of ranks and parts gives the same.
  const LossWeights sqrt = weights("{loss_weight: sqrt, kind_weights: {audio: 0.3}}");
  double up = 0.0, down = 0.0;
  for (int64_t n = 1; n <= 500; ++n) up += sqrt.of_sample(2, n);
  for (int64_t n = 500; n >= 1; --n) down += sqrt.of_sample(2, n);
  EXPECT_EQ(up, down);
}

TEST_F(NextTokenTest, TheLossIsTheWeightedMeanOfTheSamples) {
  const auto token = objective("text");
  std::vector<double> nll, labelled;  // of each sample
  for (const int64_t i : {0, 2, 3}) {
    const LossSums one = token->loss(batch(*token, "text.jsonl", {i}), true);
    nll.push_back(one.loss_sum.item<double>());
    labelled.push_back(one.count);
  }
  ASSERT_NE(labelled[0], labelled[1]);
  for (const char* rule : {"token", "sample", "sqrt"}) {
    sets_ = {fmt::format("objective.loss_weight={}", rule), "objective.kind_weights={text: 0.5}"};
    const auto weighted = objective("text");
    const LossSums sums = weighted->loss(batch(*weighted, "text.jsonl", {0, 2, 3}), true);
    double want = 0.0, count = 0.0;
    for (size_t s = 0; s < 3; ++s) {
      const double n = labelled[s];
      const double w = 0.5 * (rule[0] == 't' ? 1.0 : rule[1] == 'a' ? 1.0 / n : 1.0 / std::sqrt(n));
      want += w * nll[s];
      count += w * n;
    }
    EXPECT_NEAR(sums.loss_sum.item<double>(), want, 1e-5 * want) << rule;
    EXPECT_NEAR(sums.count, count, 1e-6) << rule;
  }
}

TEST_F(NextTokenTest, ZLossIsForTrainingOnly) {
  const auto plain = objective("text");
  sets_ = {"objective.z_loss=0.01"};
  const auto with = objective("text");
  const Batch b = batch(*plain, "text.jsonl", {0, 1});
  const double before = plain->loss(b, true).loss_sum.item<double>();
  EXPECT_GT(with->loss(b, true).loss_sum.item<double>(), before + 0.01);
  EXPECT_EQ(with->loss(b, false).loss_sum.item<double>(), before);
  sets_ = {"objective.z_loss=-1"};
  EXPECT_TRUE(throws_with<ConfigError>([&] { objective("text"); }, {"z_loss", "-1"}));
}

TEST_F(NextTokenTest, WeightsDistillationAndAugmentationDoNotDependOnPackingWorkersOrRestarts) {
  world_.models();
  const std::vector<std::string> common = {
      data("spoken.jsonl"),
      "objective.loss_weight=sqrt",
      "objective.kind_weights={image: 1, audio: 2}",
      "objective.z_loss=1.0e-3",
      "objective.distill={weight: 1.0, temperature: 2.0, ce_weight: 0.5}",
      "objective.augment={image: {crop: 0.5, brightness: 0.2, noise: 0.1}, audio: {time_masks: 1, "
      "time_width: 4, freq_masks: 1, freq_width: 3}}"};
  const auto train = [&](const std::string& run, const std::vector<std::string>& more,
                         const std::string& resume = "") {
    std::vector<std::string> set = common;  // what comes later wins
    set.insert(set.end(), more.begin(), more.end());
    world_.run(world_.config("adapters", run), set, resume);
    return world_.state(run);
  };
  const std::string whole = train("whole", {"checkpoint.every=2", "checkpoint.keep=9"});
  EXPECT_EQ(train("single", {"batch.pack=false", "batch.workers=0"}), whole);
  EXPECT_EQ(train("budget", {"batch.max_tokens=64", "batch.workers=2"}), whole);
  EXPECT_EQ(train("again", {}, (world_.path("whole") / "checkpoints" / "step-00000004").string()),
            whole);
  EXPECT_EQ(next_token_rows(world_.path("single")).back()["loss"],
            next_token_rows(world_.path("whole")).back()["loss"]);
  EXPECT_NE(train("other", {"objective.augment={}"}), whole);
}

TEST_F(NextTokenTest, BudgetsOfTokensAndWeightedMixturesResumeBitForBit) {
  world_.models();
  const std::vector<std::string> common = {
      fmt::format("data=[{{path: {}, weight: 3}}, {{path: {}, weight: 1}}]",
                  (dir_ / "text.jsonl").string(), (dir_ / "pictures.jsonl").string()),
      // 96 samples an epoch, of which 24 are pictures with about 256 rows each.
      "batch={tokens: 900, parts: 3, workers: 1, max_tokens: 64}", "steps=10"};
  const auto train = [&](const std::string& run, std::vector<std::string> more,
                         const std::string& resume = "") {
    more.insert(more.end(), common.begin(), common.end());
    world_.run(world_.config("adapters", run), more, resume);
    return world_.state(run, 10);
  };
  const std::string whole = train("whole", {"checkpoint.every=1", "checkpoint.keep=20"});
  for (const int64_t step : {3, 8}) {  // an epoch has 8 steps
    EXPECT_EQ(
        train(fmt::format("from_{}", step), {},
              (world_.path("whole") / "checkpoints" / fmt::format("step-{:08}", step)).string()),
        whole)
        << step;
  }
  EXPECT_TRUE(throws_with<ConfigError>(
      [&] { world_.run(world_.config("adapters", "both"), {"batch.tokens=900"}); },
      {"batch", "either samples or tokens"}));
}

TEST_F(NextTokenTest, DistillationTrains) {
  world_.models();
  for (const char* ce : {"0.0", "0.3"}) {
    const std::string run = fmt::format("distilled_{}", ce);
    world_.run(world_.config("adapters", run),
               {data("spoken.jsonl"), fmt::format("objective.distill={{ce_weight: {}}}", ce),
                "steps=60", "log_every=10", "run.deterministic=false",
                fmt::format("validation={{data: [{{path: {}}}], every: 60, max_samples: 10}}",
                            (dir_ / "spoken.jsonl").string())});
    std::vector<Json> rows = next_token_rows(world_.path(run));
    const Json validation = rows.back();
    rows.pop_back();
    EXPECT_LT(rows.back()["kl"].get<double>(), 0.7 * rows.front()["kl"].get<double>()) << ce;
    EXPECT_LT(rows.back()["loss"].get<double>(), rows.front()["loss"].get<double>()) << ce;
    EXPECT_EQ(rows.back().contains("cross_entropy"), std::string(ce) != "0.0");
    EXPECT_TRUE(validation.contains("validation_kl"));
    EXPECT_TRUE(validation.contains("validation_cross_entropy"));
  }
}

TEST_F(NextTokenTest, ATeacherMustReadTheSameAnswer) {
  world_.models();
  sets_ = {"objective.distill={}"};
  const auto student = objective("adapters");
  const auto fails = [&](const std::string& line, std::initializer_list<std::string_view> words) {
    dir_.write("fault.jsonl", line);
    return throws_with<DataError>([&] { batch(*student, "fault.jsonl", {0}); }, words);
  };
  EXPECT_TRUE(fails(
      R"({"id": "a", "messages": [{"role": "user", "parts": [{"kind": "audio", "uri": "media/0.wav"}]}, {"role": "assistant", "parts": ["x"]}]})",
      {"audio", "no text", "distillation"}));
  // A medium that the assistant gives is text for the teacher, and its answer another one.
  EXPECT_TRUE(fails(
      R"({"id": "a", "messages": [{"role": "user", "parts": ["x"]}, {"role": "assistant", "parts": ["y", {"kind": "audio", "uri": "media/0.wav", "text": "z"}]}]})",
      {"answer tokens", "teacher"}));
  // A record without media is its own teacher: nothing to learn, but it counts.
  const LossSums text = student->loss(batch(*student, "text.jsonl", {0, 1}), true);
  EXPECT_EQ(text.loss_sum.item<double>(), 0.0);
  EXPECT_FALSE(text.loss_sum.requires_grad());
  EXPECT_GT(text.count, 0.0);
  EXPECT_TRUE(throws_with<ConfigError>(
      [&] {
        world_.run(world_.config("adapters", "moving"),
                   {"objective.distill={}", "trainable=[\"adapter.*\", \"backbone.*embed*\"]"});
      },
      {"objective.distill", "head", "must be frozen", "embed_tokens"}));
}

TEST_F(NextTokenTest, TheTeacherIsTheBackboneAsItIsAndGetsNoGradient) {
  world_.models();
  sets_ = {"objective.distill={}",
           "objective.model.backbone.lora={rank: 2, alpha: 4, targets: [q_proj, down_proj]}"};
  const auto student = objective("adapters");
  const auto trained = [](const NamedTensor& p) {
    return p.name.find(".lora_") != std::string::npos || p.name.starts_with("adapter.");
  };
  uint64_t seed = 20;
  for (const NamedTensor& p : student->parameters()) {
    if (p.name.find(".lora_") != std::string::npos)
      at::Tensor(p.tensor).copy_(randn(p.tensor.sizes(), ++seed).mul_(0.3));
    at::Tensor(p.tensor).requires_grad_(trained(p));
  }
  student->make_aliases();
  const Batch asked = batch(*student, "spoken.jsonl", {0, 1, 2});
  const LossSums got = student->loss(asked, true);
  got.loss_sum.backward();

  // The same from a second model by ATen's operators, the teacher a batch of its own.
  const Config config = Config::load(dir_ / "adapters_objective.yaml", sets_);
  const auto model = MultimodalModel::from_config(config.child("objective").child("model"), 7);
  std::vector<Example> texts;
  for (const Example& example : asked.examples) {
    texts.emplace_back();
    texts.back().plan = example.teacher;
  }
  const Batch told = collate(std::move(texts), /*per_sample=*/true);
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    const NamedTensor &mine = student->parameters()[i], its = model->parameters()[i];
    ASSERT_EQ(mine.name, its.name);
    at::Tensor(its.tensor).copy_(mine.tensor.detach());
    at::Tensor(its.tensor).requires_grad_(trained(its));
  }
  const auto rows = [&](const Batch& of) {
    return model->forward(of).index_select(0, at::tensor(labelled_rows(of, {}).rows, at::kLong));
  };
  const at::Tensor want =
      linear_distillation_ref({.student_RD = rows(asked),
                               .teacher_RD = rows(told),
                               .weight_VD = model->backbone().head_VD().detach(),
                               .row_weight_R = {},
                               .temperature = 2.0});
  want.backward();
  EXPECT_GT(want.item<double>(), 1e-3);
  EXPECT_TRUE(tensor_near(got.loss_sum.detach(), want.detach(), {1e-5, 1e-4}));
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    const at::Tensor &mine = student->parameters()[i].tensor.grad(),
                     &its = model->parameters()[i].tensor.grad();
    ASSERT_EQ(mine.defined(), its.defined()) << model->parameters()[i].name;
    if (its.defined()) {
      EXPECT_TRUE(tensor_near(mine, its, {1e-5, 1e-3})) << model->parameters()[i].name;
    }
  }
}

TEST_F(NextTokenTest, AugmentedMediaAreNeverCachedAndValidationSeesThePlainOnes) {
  world_.models();
  sets_ = {"objective.augment={image: {noise: 0.5}}"};
  const auto augmented = objective("adapters");
  const auto input = [&](bool training, uint64_t seed) {
    return batch(*augmented, "pictures.jsonl", {1}, training, seed).examples[0];
  };
  const Example first = input(true, 3), again = input(true, 3), other = input(true, 4),
                plain = input(false, 3);
  EXPECT_TRUE(tensor_equal(first.inputs[0].x, again.inputs[0].x));
  EXPECT_FALSE(tensor_equal(first.inputs[0].x, other.inputs[0].x));
  EXPECT_EQ(first.media_keys[0], "");  // no features are kept for it
  EXPECT_NE(plain.media_keys[0], "");
  sets_.clear();
  const auto without = objective("adapters");
  EXPECT_TRUE(tensor_equal(plain.inputs[0].x,
                           batch(*without, "pictures.jsonl", {1}).examples[0].inputs[0].x));
  sets_ = {"objective.augment={image: {crop: 1.5}}"};
  EXPECT_TRUE(throws_with<ConfigError>([&] { objective("adapters"); }, {"augment.image.crop"}));
  sets_ = {"objective.augment={audio: {noise: 1}}"};
  EXPECT_TRUE(throws_with<ConfigError>(
      [&] {
        const std::string file = world_.config("adapters", "unknown").string();
        world_.run(file, sets_);
      },
      {"augment.audio.noise"}));
}

TEST_F(NextTokenTest, ABatchOfTextAloneMovesNoAdapter) {
  world_.models();
  // Not shuffled, the mixture begins with its 24 records of text: four steps of six.
  world_.run(world_.config("adapters", "mixture"),
             {"batch.shuffle=false", "log_every=1", "checkpoint.every=1", "checkpoint.keep=9"});
  const auto rows = next_token_rows(world_.path("mixture"));
  for (int64_t step = 0; step < 6; ++step)
    EXPECT_EQ(rows[step]["grad_norm"].get<double>() == 0.0, step < 4) << step;
  EXPECT_TRUE(rows[0].contains("loss_text"));
  const auto adapters = [&](int64_t step) {
    return hash_hex(read_bytes(world_.path("mixture") / "checkpoints" /
                               fmt::format("step-{:08}", step) / "parameters.safetensors"));
  };
  EXPECT_EQ(adapters(1), adapters(4));
  EXPECT_NE(adapters(4), adapters(5));
}

}  // namespace
}  // namespace euromodal
