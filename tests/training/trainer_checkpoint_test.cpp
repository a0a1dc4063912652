// trainer_checkpoint_test.cpp — what a run leaves on disk while it goes on: resumed at any boundary
// = uninterrupted bit for bit (epoch, validation, skipped step, average), which checkpoints stay, a
// full disk, requests to save and to leave.
#include <csignal>
#include <map>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "backbone/weights/safetensors.h"
#include "core/json.h"
#include "core/log.h"
#include "inference/caption.h"
#include "tests/training/tiny_world.h"
#include "training/checkpointer.h"
#include "training/data/dataset.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class TrainerCheckpointTest : public testing::Test {
 protected:
  TrainerCheckpointTest() : world_(dir_) { set_log_level(LogLevel::kError); }
  ~TrainerCheckpointTest() override { set_log_level(LogLevel::kInfo); }

  std::string validation(int64_t every) const {
    return fmt::format("validation={{data: [{{path: {}}}], every: {}, max_samples: 8}}",
                       world_.path("text.jsonl").string(), every);
  }
  fs::path checkpoints(const std::string& run) const { return world_.path(run) / "checkpoints"; }
  /// Steps of the checkpoints that a run left.
  std::set<int64_t> steps(const std::string& run) const {
    std::set<int64_t> out;
    for (const CheckpointInfo& info : complete_checkpoints(checkpoints(run))) out.insert(info.step);
    return out;
  }
  /// What a run's rows say, without what depends on time.
  Json rows(const std::string& run) const {
    Json out = Json::array();
    std::istringstream lines(read_bytes(world_.path(run) / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const Json row = Json::parse(line);
      Json kept = {{"step", row["step"]}};
      for (const char* key : {"loss", "loss_text", "grad_norm", "lr_0_adamw", "lr_1_muon",
                              "bad_steps", "spikes", "validation_loss"}) {
        if (row.contains(key)) kept[key] = row[key];
      }
      out.push_back(kept);
    }
    return out;
  }

  TempDir dir_;
  TinyWorld world_;
};

TEST_F(TrainerCheckpointTest, ResumedAtEveryBoundaryEqualsUninterrupted) {
  // Epochs end after 4 and 8 steps, validation comes after 3, 6 and 9; spikes are skipped from step
  // 4 on (a small factor and small rates make sure that there are some); an average is kept.
  const std::vector<std::string> set = {
      "steps=9",
      "log_every=1",
      "ema={decay: 0.9, model: replace}",
      validation(3),
      "spike={window: 4, factor: 0.1, max: 99}",
      "optimizer.0.lr=0.00001",
      "optimizer.1.lr=0.00003",
      "checkpoint.keep=99",
      "optimizer.0.schedule={type: cosine, warmup: 0.3, final: 0.0}"};
  std::vector<std::string> all = set;
  all.emplace_back("checkpoint.every=1");
  world_.run(world_.config("text", "whole"), all);
  const Json whole = rows("whole");
  int64_t skipped = 0;
  for (const Json& row : whole) skipped = std::max(skipped, row.value("spikes", int64_t{0}));
  ASSERT_GT(skipped, 0);
  ASSERT_LT(skipped, 5);
  for (int64_t step = 1; step < 9; ++step) {
    const std::string run = fmt::format("from_{}", step);
    world_.run(world_.config("text", run), set,
               checkpoint_folder(checkpoints("whole"), step).string());
    EXPECT_EQ(world_.state(run, 9), world_.state("whole", 9)) << step;
    Json tail = Json::array();
    for (const Json& row : whole) {
      if (row["step"].get<int64_t>() >= step) tail.push_back(row);
    }
    EXPECT_EQ(rows(run), tail) << step;
    EXPECT_EQ(read_bytes(world_.path(run) / "model" / "model.safetensors"),
              read_bytes(world_.path("whole") / "model" / "model.safetensors"));
  }
}

TEST_F(TrainerCheckpointTest, WrittenByAThreadOrAtOnceTheBytesAreTheSame) {
  const std::vector<std::string> set = {"checkpoint.every=2", "checkpoint.keep=9"};
  std::vector<std::string> at_once = set;
  at_once.emplace_back("checkpoint.async=false");
  world_.run(world_.config("text", "thread"), set);
  world_.run(world_.config("text", "at_once"), at_once);
  EXPECT_EQ(steps("thread"), (std::set<int64_t>{2, 4, 6}));
  for (const int64_t step : {2, 4, 6})
    EXPECT_EQ(world_.state("thread", step), world_.state("at_once", step));
  EXPECT_NE(world_.state("thread", 2), world_.state("thread", 4));
}

TEST_F(TrainerCheckpointTest, TheAverageIsWhatItsFormulaSays) {
  world_.run(world_.config("text", "start"), {"steps=0"});
  world_.run(world_.config("text", "run"), {"steps=3", "ema={decay: 0.75, model: beside}",
                                            "checkpoint.every=1", "checkpoint.keep=9"});
  const auto tensors = [&](const fs::path& file) {
    std::map<std::string, at::Tensor> out;
    const SafetensorsFile stored(file);
    for (const TensorInfo& info : stored.infos()) out[info.name] = stored.tensor(info).clone();
    return out;
  };
  std::map<std::string, at::Tensor> average;
  for (const auto& [name, value] : tensors(world_.path("start") / "model" / "model.safetensors"))
    average["backbone." + name] = value;
  for (int64_t step = 1; step <= 3; ++step) {
    const fs::path folder = checkpoint_folder(checkpoints("run"), step);
    const auto stored = tensors(folder / "average.safetensors");
    for (const auto& [name, value] : tensors(folder / "parameters.safetensors")) {
      average.at(name) = average.at(name) + 0.25 * (value - average.at(name));
      EXPECT_TRUE(average.at(name).allclose(stored.at(name), 1e-5, 1e-7)) << name;
    }
  }
  const auto model = tensors(world_.path("run") / "model" / "model.safetensors"),
             beside = tensors(world_.path("run") / "model_ema" / "model.safetensors");
  const fs::path last = checkpoint_folder(checkpoints("run"), 3);
  for (const auto& [name, value] : tensors(last / "parameters.safetensors")) {
    const std::string short_name = name.substr(std::string("backbone.").size());
    EXPECT_TRUE(model.at(short_name).equal(value)) << name;
    EXPECT_TRUE(beside.at(short_name).equal(tensors(last / "average.safetensors").at(name)));
  }
}

TEST_F(TrainerCheckpointTest, TheBestStaysHoweverOldItIs) {
  // A rate of nothing at the end of a linear fall: losses fall, so `max` has its best early.
  world_.run(
      world_.config("text", "run"),
      {"steps=8", "checkpoint={every: 2, keep: 2, best: {metric: validation_loss, mode: max}}",
       validation(1)});
  double best = -1.0;
  int64_t best_step = 0;
  for (const Json& row : rows("run")) {
    if (!row.contains("validation_loss") || row["validation_loss"].get<double>() <= best) continue;
    best = row["validation_loss"].get<double>();
    best_step = row["step"].get<int64_t>() + 1;
  }
  ASSERT_LT(best_step, 6);
  EXPECT_EQ(steps("run"), (std::set<int64_t>{best_step, 6, 8}));
  EXPECT_EQ(fs::read_symlink(checkpoints("run") / "best"),
            checkpoint_folder(checkpoints("run"), best_step).filename());
  EXPECT_EQ(newest_checkpoint(checkpoints("run")), checkpoint_folder(checkpoints("run"), 8));
  const fs::path file = world_.config("text", "wrong");
  EXPECT_TRUE(throws_with<ConfigError>(
      [&] {
        world_.run(file, {"checkpoint.best={metric: validation_bleu, mode: max}", validation(1)});
      },
      {"validation_bleu", "validation_loss"}));
  EXPECT_TRUE(throws_with<ConfigError>(
      [&] {
        world_.run(world_.config("text", "none"), {"checkpoint.best={metric: x, mode: min}"});
      },
      {"validation"}));
}

TEST_F(TrainerCheckpointTest, AFullDiskIsNamedAndLeavesNoHalfFolder) {
  const fs::path file = world_.config("text", "full");
  world_.run(world_.config("text", "whole"), {"steps=20"});
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 30'000;  // no file may grow beyond it, as if the disk were full
  ::setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_TRUE(throws_with<CheckpointError>(
      [&] {
        world_.run(file, {"steps=20", "checkpoint.every=3"});
      },
      {"checkpoint of step 3", "parameters.safetensors", "cannot be written"}));
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(fs::is_empty(checkpoints("full")));
  EXPECT_EQ(world_.run(file, {"steps=20"}, "auto"), TrainEnd::kDone);
  EXPECT_EQ(world_.state("full", 20), world_.state("whole", 20));
}

TEST_F(TrainerCheckpointTest, FilesInTheRunFolderSaveAndStop) {
  const fs::path run = world_.path("asked");
  std::thread asker([&] {
    const auto wait = [](const auto& done) {
      for (int i = 0; i < 4000 && !done(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    };
    wait([&] { return fs::exists(run / "metrics.jsonl") && !fs::is_empty(run / "metrics.jsonl"); });
    write_text_atomic(run / "save", "");
    wait([&] { return !fs::exists(run / "save"); });
    write_text_atomic(run / "stop", "");
  });
  const TrainEnd end = world_.run(world_.config("text", "asked"),
                                  {"steps=100000", "log_every=1", "checkpoint.keep=9"});
  asker.join();
  EXPECT_EQ(end, TrainEnd::kStopped);
  EXPECT_FALSE(fs::exists(run / "stop"));
  EXPECT_FALSE(fs::exists(run / "model"));
  EXPECT_EQ(steps("asked").size(), 2U);
}

TEST_F(TrainerCheckpointTest, LeavesBeforeItsTimeIsUp) {
  const fs::path file = world_.config("text", "timed");
  EXPECT_EQ(world_.run(file, {"steps=1000000", "run.wall_clock_limit=2s"}), TrainEnd::kStopped);
  EXPECT_EQ(steps("timed").size(), 1U);
  const int64_t first = *steps("timed").begin();
  EXPECT_EQ(world_.run(file, {"steps=1000000", "run.wall_clock_limit=1s"}, "auto"),
            TrainEnd::kStopped);
  EXPECT_GT(*steps("timed").rbegin(), first);  // at least one step each time
}

TEST_F(TrainerCheckpointTest, AnswersDuringTrainingAreWhatCaptionGivesAfterwards) {
  world_.models();
  world_.run(
      world_.config("adapters", "run"),
      {fmt::format("samples={{data: [{{path: {}}}], every: 4, count: 30, max_new_tokens: 5}}",
                   world_.path("mixed.jsonl").string())});
  std::vector<Json> rows;
  std::istringstream lines(read_bytes(world_.path("run") / "samples.jsonl"));
  for (std::string line; std::getline(lines, line);) rows.push_back(Json::parse(line));
  ASSERT_EQ(rows.size(), 60U);  // after steps 4 and 6
  const auto model = MultimodalModel::load(world_.path("run") / "model", std::nullopt);
  const auto data = Dataset::open(world_.path("mixed.jsonl"));
  for (int64_t i = 0; i < 30; ++i) {
    const Sample sample = data->get(i);
    const Json& row = rows[static_cast<size_t>(30 + i)];
    GenerateOptions options;
    options.max_new_tokens = 5;
    options.stop_ids = model->backbone().config().eos_ids;
    const Generated words =
        caption(*model, caption_record(*model, sample.record, sample.media), options);
    EXPECT_EQ(row["answer"], model->plan_context().tokenizer->decode(words.tokens, true));
    EXPECT_EQ(row["id"], sample.record.id);
    EXPECT_EQ(row["step"], 5);
    EXPECT_EQ(row["reference"], record_reference(sample.record));
  }
  const std::string samples =
      fmt::format("samples={{data: [{{path: {}}}]}}", world_.path("pictures.jsonl").string());
  EXPECT_TRUE(
      throws_with<ConfigError>([&] { world_.run(world_.config("pictures", "none"), {samples}); },
                               {"samples", "no answers"}));
}

TEST_F(TrainerCheckpointTest, RowsTellWhereTheTimeGoesAndWhatTheMachineDoes) {
  world_.models();
  world_.run(world_.config("adapters", "run"),
             {"log_every=1", "run.peak_tflops=1000", "run.tensorboard=true"});
  const Json row = [&] {
    const std::string text = read_bytes(world_.path("run") / "metrics.jsonl");
    const auto begin = text.rfind('\n', text.size() - 2) + 1;
    return Json::parse(text.substr(begin));
  }();
  double inside = 0.0;
  for (const char* part :
       {"data", "encode", "adapt", "backbone", "loss", "backward", "optimizer", "communication"}) {
    const std::string key = fmt::format("time_{}_s", part);
    ASSERT_TRUE(row.contains(key)) << key;
    inside += row[key].get<double>();
  }
  EXPECT_GT(row["time_backward_s"].get<double>(), 0.0);
  EXPECT_GT(row["time_backbone_s"].get<double>(), 0.0);
  EXPECT_LE(inside, row["elapsed_s"].get<double>());  // no second is counted twice
  EXPECT_NEAR(row["mfu"].get<double>(), row["tflops"].get<double>() / 1000.0, 1e-9);
  EXPECT_GT(row["memory_now_mb"].get<double>(), 1.0);
  EXPECT_FALSE(fs::is_empty(world_.path("run") / "tensorboard"));
  const std::string text = read_bytes(world_.path("run") / "metrics.jsonl");
  EXPECT_NEAR(Json::parse(text.substr(0, text.find('\n')))["chance_loss"].get<double>(),
              std::log(921.0), 1e-9);
  world_.run(world_.config("adapters", "off"), {"run.time_split=false"});
  EXPECT_EQ(read_bytes(world_.path("off") / "metrics.jsonl").find("time_"), std::string::npos);
  EXPECT_EQ(world_.state("off"), world_.state("run"));  // measuring changes nothing
}

TEST_F(TrainerCheckpointTest, ABackboneThatKnowsNothingIsALoadingFault) {
  world_.run(world_.config("text", "text"), {"steps=0"});  // as it was drawn
  for (const char* other : {"pictures", "sounds"})
    world_.run(world_.config(other, other), {"steps=1"});
  EXPECT_TRUE(throws_with<CheckpointError>(
      [&] { world_.run(world_.config("adapters", "chance"), {"run.allow_chance_start=false"}); },
      {"text alone", "knows nothing"}));
}

}  // namespace
}  // namespace euromodal
