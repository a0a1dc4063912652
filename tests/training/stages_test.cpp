// stages_test.cpp — several runs in one YAML: what they share, where they write, how they take each
// other's models, and where a resumed run goes on.
#include "training/stages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "core/log.h"
#include "tests/training/tiny_world.h"
#include "training/checkpoint.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

/// Temporary files of the program go to `dir` meanwhile.
class TempScratch {
 public:
  explicit TempScratch(const fs::path& dir)
      : before_(::getenv("TMPDIR") ? ::getenv("TMPDIR") : "") {
    fs::create_directories(dir);
    ::setenv("TMPDIR", dir.c_str(), 1);
  }
  ~TempScratch() {
    before_.empty() ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", before_.c_str(), 1);
  }

 private:
  std::string before_;
};

class StagesTest : public testing::Test {
 protected:
  StagesTest() : world_(dir_) {
    set_log_level(LogLevel::kError);
    world_.models();
  }
  ~StagesTest() override { set_log_level(LogLevel::kInfo); }

  /// Adapters first, then everything from what that left.
  fs::path config(const std::string& run) const {
    std::string text = read_bytes(world_.config("adapters", run));
    text = text.substr(0, text.find("objective:")) + text.substr(text.find("data:"));
    const std::string whole = read_bytes(world_.config("adapters", run)),
                      model = whole.substr(whole.find("  model:\n") + 9,
                                           whole.find("data:") - whole.find("  model:\n") - 9);
    text +=
        "objective: {type: next_token, feature_cache_mb: 8}\ncheckpoint: {every: 2, keep: 9}\n"
        "stages:\n  - name: align\n    objective:\n      model:\n";
    std::istringstream lines(model);
    for (std::string line; std::getline(lines, line);) text += "    " + line + "\n";
    text +=
        "  - name: full\n"
        "    steps: 4\n"
        "    trainable: [\"*\"]\n"
        "    optimizer: [{params: [\"*\"], type: adamw, lr: 0.001, betas: [0.9, 0.95], eps: "
        "1.0e-8}]\n"
        "    objective: {model: {folder: \"${stage.align}/model\"}}\n";
    const fs::path file = dir_ / (run + "_stages.yaml");
    write_text_atomic(file, text);
    return file;
  }
  fs::path file_of(const std::string& run, const std::string& stage, int64_t step) const {
    return checkpoint_folder(world_.path(run) / stage / "checkpoints", step) /
           "parameters.safetensors";
  }

  TempDir dir_;
  TinyWorld world_;
};

TEST_F(StagesTest, ADryRunReportsEveryStageAndWritesNothing) {
  const TempScratch scratch(dir_ / "scratch");
  const fs::path file = config("planned");
  const Json plan = dry_run_file(file, {}, 4);
  EXPECT_EQ(plan["ranks"], 4);
  ASSERT_EQ(plan["stages"].size(), 2U);
  EXPECT_EQ(plan["stages"][0]["stage"], "align");
  EXPECT_EQ(plan["stages"][1]["stage"], "full");
  EXPECT_EQ(plan["stages"][1]["steps"], 4);
  EXPECT_EQ(plan["stages"][1]["trainable"], plan["stages"][1]["parameters"]);
  EXPECT_LT(plan["stages"][0]["trainable"].get<int64_t>(),
            plan["stages"][1]["trainable"].get<int64_t>());
  EXPECT_GT(plan["stages"][1]["sent"]["step 1"].size(), 0U);
  EXPECT_FALSE(fs::exists(world_.path("planned")));
  EXPECT_TRUE(fs::is_empty(dir_ / "scratch"));
  // A model that is there is taken.
  ASSERT_EQ(world_.run(file), TrainEnd::kDone);
  EXPECT_EQ(dry_run_file(file, {}, 4)["stages"].size(), 2U);
  write_text_atomic(world_.path("planned") / "align/model/config.json", "{}");
  EXPECT_TRUE(throws_with<ConfigError>([&] { dry_run_file(file, {}, 4); },
                                       {"stage full", "align/model/config.json"}));
  // A fault names the stage.
  EXPECT_TRUE(throws_with<ConfigError>(
      [&] { dry_run_file(file, {"stages.0.trainable=[\"nothing*\"]"}, 4); },
      {"stage align", "nothing"}));
}

TEST_F(StagesTest, EachStageTrainsWhatTheOneBeforeLeft) {
  ASSERT_EQ(world_.run(config("run")), TrainEnd::kDone);
  for (const char* stage : {"align", "full"}) {
    const fs::path dir = world_.path("run") / stage;
    for (const char* name : {"config.yaml", "metrics.jsonl", "model/config.json"})
      EXPECT_TRUE(fs::exists(dir / name)) << stage << " " << name;
  }
  const Config resolved = Config::load(world_.path("run") / "full" / "config.yaml");
  EXPECT_EQ(resolved.i64("steps"), 4);
  EXPECT_EQ(resolved.i64("log_every"), 2);  // shared
  EXPECT_FALSE(resolved.has("stages"));
  EXPECT_FALSE(resolved.has("name"));
  EXPECT_EQ(resolved.child("objective").child("model").str("folder"),
            (world_.path("run") / "align" / "model").string());
  // The second began with the adapters of the first: after no step at all they are still those.
  ASSERT_EQ(world_.run(config("none"), {"stages.1.steps=0"}), TrainEnd::kDone);
  EXPECT_EQ(read_bytes(world_.path("none") / "full" / "model" / "adapters.safetensors"),
            read_bytes(world_.path("run") / "align" / "model" / "adapters.safetensors"));
  EXPECT_NE(read_bytes(world_.path("run") / "full" / "model" / "adapters.safetensors"),
            read_bytes(world_.path("run") / "align" / "model" / "adapters.safetensors"));
}

TEST_F(StagesTest, ResumeGoesOnInTheRightStageBitForBit) {
  const fs::path whole = config("whole"), again = config("again");
  world_.run(whole);
  // Cut inside the second stage, and at the boundary between the two.
  fs::copy(world_.path("whole"), world_.path("again"), fs::copy_options::recursive);
  const auto align_written = fs::last_write_time(world_.path("again") / "align" / "metrics.jsonl");
  fs::remove_all(world_.path("again") / "full" / "model");
  fs::remove_all(file_of("again", "full", 4).parent_path());
  EXPECT_EQ(world_.run(again, {}, "auto"), TrainEnd::kDone);
  EXPECT_EQ(read_bytes(file_of("again", "full", 4)), read_bytes(file_of("whole", "full", 4)));
  EXPECT_EQ(fs::last_write_time(world_.path("again") / "align" / "metrics.jsonl"), align_written);
  fs::remove_all(world_.path("again") / "full");
  EXPECT_EQ(world_.run(again, {}, "auto"), TrainEnd::kDone);
  EXPECT_EQ(read_bytes(file_of("again", "full", 4)), read_bytes(file_of("whole", "full", 4)));
  // A checkpoint's folder chooses its stage.
  EXPECT_EQ(world_.run(again, {}, file_of("again", "full", 2).parent_path().string()),
            TrainEnd::kDone);
  EXPECT_EQ(read_bytes(file_of("again", "full", 4)), read_bytes(file_of("whole", "full", 4)));
  EXPECT_TRUE(throws_with<ConfigError>(
      [&] {
        world_.run(again, {}, (world_.path("text") / "checkpoints" / "step-00000006").string());
      },
      {"no checkpoint of a stage"}));
}

TEST_F(StagesTest, FaultsNameStageAndLineBeforeAnythingIsTrained) {
  const auto fails = [&](const std::vector<std::string>& set,
                         std::initializer_list<std::string_view> words) {
    return throws_with<ConfigError>([&] { world_.run(config("bad"), set); }, words);
  };
  EXPECT_TRUE(fails({"stages.1.steps=-3"}, {"stage full", "steps", "-3"}));
  EXPECT_TRUE(fails({"stages.1.optimizer=[{params: ['*'], type: sgd}]"}, {"stage full", "sgd"}));
  EXPECT_TRUE(fails({"stages.1.name=align"}, {"stages[1].name", "align"}));
  EXPECT_TRUE(fails({"stages.0.name=a/b"}, {"stages[0].name", "a/b"}));
  EXPECT_TRUE(fails({"stages.0.run={dir: x}"}, {"run", "own folder"}));
  EXPECT_TRUE(fails({"stages=[]"}, {"stages", "at least one"}));
  EXPECT_FALSE(fs::exists(world_.path("bad")));
  EXPECT_TRUE(fails({"stages.0.speling=1"}, {"stage align", "speling", "unknown key"}));
  // A typo in the YAML itself is told with its line.
  std::string text = read_bytes(config("bad"));
  text.replace(text.find("    steps: 4"), 12, "    steps: four");
  const fs::path file = dir_.write("typo.yaml", text);
  const auto line = std::count(text.begin(), text.begin() + text.find("steps: four"), '\n') + 1;
  EXPECT_TRUE(throws_with<ConfigError>([&] { world_.run(file); },
                                       {"stage full", fmt::format("typo.yaml:{}: steps", line)}));
}

TEST_F(StagesTest, TheExampleRuns) {
  const std::string d = world_.path("").string();
  const std::string media = fmt::format("[{{path: {0}/mixed.jsonl, repeat: 1.0}}]", d);
  ASSERT_EQ(world_.run(std::string(EM_SOURCE_DIR) + "/configs/stages.yaml",
                       {"run.dir=" + d + "/example",
                        "run.threads=1",
                        "run.allow_chance_start=true",
                        "run.wall_clock_limit=1h",
                        "data=" + media,
                        "validation.data=" + media,
                        "validation.max_samples=4",
                        "validation.every=2",
                        "samples.data=" + media,
                        "samples.every=2",
                        "samples.count=2",
                        "samples.max_new_tokens=3",
                        "batch={samples: 4, parts: 2}",
                        "checkpoint.every=2",
                        "stages.0.steps=4",
                        "stages.1.steps=3",
                        "stages.0.objective.model.backbone.model=" + d + "/text/model",
                        "stages.0.objective.model.image.encoder.model=" + d + "/pictures/model",
                        "stages.0.objective.model.audio.encoder.model=" + d + "/sounds/model",
                        "stages.0.objective.model.image.adapter.hidden=8",
                        "stages.0.objective.model.audio.adapter.hidden=8"}),
            TrainEnd::kDone);
  for (const char* name : {"align/model", "align/model_ema", "full/model", "full/model_ema",
                           "align/checkpoints/best", "full/tensorboard"})
    EXPECT_TRUE(fs::exists(world_.path("example") / name)) << name;
  EXPECT_FALSE(read_bytes(world_.path("example") / "full" / "samples.jsonl").empty());
}

TEST_F(StagesTest, ALaterStageThatIsThereAlreadyIsRefusedAtOnce) {
  dir_.write("used/full/config.yaml", "");
  EXPECT_TRUE(throws_with<ConfigError>([&] { world_.run(config("used")); },
                                       {"full", "already holds a run"}));
  EXPECT_FALSE(fs::exists(world_.path("used") / "align"));
}

}  // namespace
}  // namespace euromodal
