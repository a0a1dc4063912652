// trainer_test.cpp — the trainer in one process: resumed = uninterrupted and packed = unpacked bit
// for bit, gradients reach exactly what is trained, the loss falls, and every fault of config, run
// folder and checkpoint is one clear error.
#include "training/trainer.h"

#include <csignal>
#include <map>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backbone/weights/safetensors.h"
#include "core/json.h"
#include "core/log.h"
#include "tests/support/tensor_near.h"
#include "tests/training/tiny_world.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class TrainerTest : public testing::Test {
 protected:
  TrainerTest() : world_(dir_) { set_log_level(LogLevel::kError); }
  ~TrainerTest() override { set_log_level(LogLevel::kInfo); }
  TempDir dir_;
  TinyWorld world_;
};

std::map<std::string, at::Tensor> trainer_tensors(const fs::path& file) {
  std::map<std::string, at::Tensor> out;
  const SafetensorsFile stored(file);
  for (const TensorInfo& info : stored.infos()) out[info.name] = stored.tensor(info).clone();
  return out;
}

std::vector<Json> trainer_metrics(const fs::path& run) {
  std::vector<Json> out;
  std::istringstream lines(read_bytes(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) out.push_back(Json::parse(line));
  return out;
}

TEST_F(TrainerTest, ResumedEqualsUninterruptedBitForBit) {
  world_.models();
  for (const char* objective : {"text", "pictures", "sounds", "adapters"}) {
    const std::string whole = std::string(objective) + "_whole";
    ASSERT_EQ(
        world_.run(world_.config(objective, whole), {"checkpoint.every=1", "checkpoint.keep=9"}),
        TrainEnd::kDone);
    for (const int64_t step : {1, 4, 5}) {
      const std::string again = fmt::format("{}_{}", objective, step);
      world_.run(world_.config(objective, again), {},
                 (world_.path(whole) / "checkpoints" / fmt::format("step-{:08}", step)).string());
      EXPECT_EQ(world_.state(again), world_.state(whole))
          << objective << " resumed after step " << step;
    }
    EXPECT_NE(world_.state(whole, 5), world_.state(whole, 6)) << objective;
  }
}

TEST_F(TrainerTest, PackedEqualsUnpackedBitForBit) {
  world_.models();
  for (const char* objective : {"text", "pictures", "sounds", "adapters"}) {
    const std::string packed = std::string(objective) + "_packed",
                      single = std::string(objective) + "_single",
                      budget = std::string(objective) + "_budget";
    world_.run(world_.config(objective, packed), {"batch.pack=true"});
    world_.run(world_.config(objective, single), {"batch.pack=false"});
    world_.run(world_.config(objective, budget),
               {"batch.pack=true", "batch.max_tokens=64", "batch.workers=0"});
    EXPECT_EQ(world_.state(packed), world_.state(single)) << objective;
    EXPECT_EQ(world_.state(packed), world_.state(budget)) << objective;
    EXPECT_EQ(trainer_metrics(world_.path(packed)).back()["loss"],
              trainer_metrics(world_.path(single)).back()["loss"])
        << objective;
  }
}

TEST_F(TrainerTest, CheckpointingOfEncodersChangesNoBit) {
  world_.models();
  const std::string all =
      "optimizer=[{params: [\"*\"], type: adamw, lr: 0.003, "
      "betas: [0.9, 0.95], eps: 1.0e-8, weight_decay: 0.0}]";
  for (const char* objective : {"pictures", "sounds", "adapters"}) {
    const bool coupled = std::string(objective) == "adapters";
    const auto run = [&](const std::string& mode) {
      std::vector<std::string> settings = {all, "trainable=[\"*\"]"};
      for (const char* kind : {"image", "audio"}) {
        if (coupled)
          settings.push_back(
              fmt::format("objective.model.{}.encoder.checkpointing={}", kind, mode));
      }
      if (!coupled) settings.push_back("objective.encoder.checkpointing=" + mode);
      const std::string name = fmt::format("{}_{}", objective, mode);
      world_.run(world_.config(objective, name), settings);
      return world_.state(name);
    };
    const std::string plain = run("none");
    EXPECT_EQ(run("mlp"), plain) << objective;
    EXPECT_EQ(run("layer"), plain) << objective;
  }
  EXPECT_TRUE(throws_with<ConfigError>(
      [&] {
        world_.run(world_.config("sounds", "wrong"), {"objective.encoder.checkpointing=some"});
      },
      {"checkpointing", "some"}));
}

TEST_F(TrainerTest, TransformsOnTheCpuAsDeviceAreTheWorkers) {
  for (const char* objective : {"pictures", "sounds"}) {
    const std::string device = std::string(objective) + "_device";
    world_.run(world_.config(objective, objective));
    world_.run(world_.config(objective, device), {"batch.transforms=device", "batch.workers=2"});
    EXPECT_EQ(world_.state(device), world_.state(objective));
  }
  EXPECT_TRUE(throws_with<ConfigError>(
      [&] { world_.run(world_.config("pictures", "wrong"), {"batch.transforms=gpu"}); },
      {"batch.transforms", "gpu", "device"}));
}

TEST_F(TrainerTest, FastModeAgreesWithDeterministicMode) {
  world_.models();
  world_.run(world_.config("adapters", "exact"));
  world_.run(world_.config("adapters", "fast"), {"run.deterministic=false"});
  const double exact = trainer_metrics(world_.path("exact")).back()["loss"].get<double>(),
               fast = trainer_metrics(world_.path("fast")).back()["loss"].get<double>();
  EXPECT_NEAR(exact, fast, 1e-3 * exact);
}

TEST_F(TrainerTest, GradientsReachExactlyWhatIsTrained) {
  world_.models();
  world_.run(world_.config("adapters", "start"), {"steps=0"});
  world_.run(world_.config("adapters", "end"));
  const fs::path start = world_.path("start") / "model", end = world_.path("end") / "model";
  int frozen = 0;
  for (const auto& entry : fs::recursive_directory_iterator(start)) {
    if (entry.path().extension() != ".safetensors") continue;
    const fs::path relative = fs::relative(entry.path(), start);
    const auto before = trainer_tensors(entry.path()), after = trainer_tensors(end / relative);
    ASSERT_EQ(before.size(), after.size());
    const bool adapters = relative == "adapters.safetensors";
    for (const auto& [name, tensor] : before) {
      EXPECT_EQ(tensor.equal(after.at(name)), !adapters) << relative << " " << name;
      frozen += adapters ? 0 : 1;
    }
  }
  EXPECT_GT(frozen, 30);
  // A part of the adapters: the rest stays as it was drawn.
  world_.run(world_.config("adapters", "part"), {"trainable=[\"adapter.image.*\"]"});
  for (const auto& [name, tensor] : trainer_tensors(start / "adapters.safetensors")) {
    const bool image = name.find("image") != std::string::npos;
    EXPECT_EQ(tensor.equal(
                  trainer_tensors(world_.path("part") / "model" / "adapters.safetensors").at(name)),
              !image)
        << name;
  }
}

TEST_F(TrainerTest, TheLossFallsAndTheRunIsWrittenDown) {
  for (const char* objective : {"text", "pictures", "sounds"}) {
    const std::string run = std::string(objective) + "_long";
    world_.run(world_.config(objective, run),
               {"steps=60", "log_every=10", "run.deterministic=false"});
    const auto rows = trainer_metrics(world_.path(run));
    ASSERT_EQ(rows.size(), 6U);
    EXPECT_LT(rows.back()["loss"].get<double>(), 0.7 * rows.front()["loss"].get<double>())
        << objective;
    for (const char* key :
         {"step", "loss", "grad_norm", "samples_per_s", "data_stall_s", "data_stall_share",
          "data_ready_steps", "bad_samples", "memory_mb", "elapsed_s", "eta_s"})
      EXPECT_TRUE(rows.back().contains(key)) << key;
    EXPECT_EQ(rows.back()["step"], 59);
    EXPECT_NE(read_bytes(world_.path(run) / "config.yaml").find("steps: 60"), std::string::npos);
    EXPECT_TRUE(read_json(world_.path(run) / "environment.json").contains("libtorch"));
  }
}

TEST_F(TrainerTest, ValidationIsLogged) {
  world_.run(world_.config("sounds", "validated"),
             {fmt::format("validation={{data: [{{path: {}}}], every: 3, max_samples: 10}}",
                          world_.path("sounds.jsonl").string())});
  int seen = 0;
  for (const Json& row : trainer_metrics(world_.path("validated"))) {
    if (!row.contains("validation_loss")) continue;
    ++seen;
    EXPECT_TRUE(row.contains("validation_cer"));
  }
  EXPECT_EQ(seen, 2);
}

TEST_F(TrainerTest, ASignalSavesAndTheRunGoesOnAsIfNothingHadHappened) {
  world_.run(world_.config("text", "whole"));
  const fs::path file = world_.config("text", "cut");
  // The handler is there from the first step on; the config's long run makes sure that the signal
  // falls into it.
  std::thread sender([&] {
    while (!fs::exists(world_.path("cut") / "metrics.jsonl"))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    ::kill(::getpid(), SIGUSR1);
  });
  struct sigaction ignore {
  }, before{};
  ignore.sa_handler = SIG_IGN;  // should the run be over before the signal comes
  ::sigaction(SIGUSR1, &ignore, &before);
  const TrainEnd end = world_.run(file, {"steps=6", "run.dir=" + world_.path("cut").string()});
  sender.join();
  if (end == TrainEnd::kStopped) {
    EXPECT_FALSE(fs::exists(world_.path("cut") / "model"));
    EXPECT_EQ(world_.run(file, {}, "auto"), TrainEnd::kDone);
  }
  ::sigaction(SIGUSR1, &before, nullptr);
  EXPECT_EQ(world_.state("cut"), world_.state("whole"));
}

TEST_F(TrainerTest, ConfigFaultsAreNamed) {
  const fs::path file = world_.config("text", "faults");
  const auto fails = [&](const std::string& set, std::initializer_list<std::string_view> words) {
    return throws_with<ConfigError>([&] { world_.run(file, {set}); }, words);
  };
  EXPECT_TRUE(fails("speling=1", {"speling", "unknown key"}));
  EXPECT_TRUE(fails("objective.speling=1", {"objective.speling", "unknown key"}));
  EXPECT_TRUE(fails("trainable=[\"nothing.*\"]", {"nothing.*"}));
  EXPECT_TRUE(fails("steps=-1", {"steps", "-1"}));
  EXPECT_TRUE(fails("batch.samples=0", {"batch.samples"}));
  EXPECT_TRUE(fails("batch.parts=7", {"batch.parts", "7 parts of 6"}));
  EXPECT_TRUE(fails("objective.type=magic", {"magic", "next_token"}));
  EXPECT_TRUE(fails("optimizer.1.type=sgd", {"sgd"}));
  EXPECT_TRUE(
      fails("optimizer.1.params=[\"*layers.0*\"]", {"self_attn"}));  // a tensor that no group takes
  EXPECT_TRUE(fails("schedule.type=spiral", {"spiral"}));
  EXPECT_FALSE(fs::exists(world_.path("faults")));  // nothing was written
}

TEST_F(TrainerTest, ARunFolderIsNotUsedTwice) {
  const fs::path file = world_.config("text", "once");
  world_.run(file);
  EXPECT_TRUE(throws_with<ConfigError>([&] { world_.run(file); },
                                       {"once", "already holds a run", "--resume auto"}));
  EXPECT_EQ(world_.run(file, {}, "auto"),
            TrainEnd::kDone);  // nothing left to do: writes the model again
}

TEST_F(TrainerTest, BrokenCheckpointsAreNamed) {
  const fs::path file = world_.config("text", "broken");
  world_.run(file, {"checkpoint.every=2", "checkpoint.keep=9"});
  const fs::path checkpoints = world_.path("broken") / "checkpoints",
                 third = checkpoints / "step-00000004";
  const auto fails = [&](const std::string& resume, const std::vector<std::string>& set,
                         std::initializer_list<std::string_view> words) {
    return throws_with<CheckpointError>([&] { world_.run(file, set, resume); }, words);
  };
  EXPECT_TRUE(fails((checkpoints / "step-99").string(), {}, {"step-99", "no such checkpoint"}));
  EXPECT_TRUE(fails(third.string(), {"run.seed=8"}, {"another run", "seed"}));
  EXPECT_TRUE(fails(third.string(), {"batch.samples=12"}, {"another run", "batch.samples"}));
  EXPECT_TRUE(
      fails(third.string(), {"trainable=[\"*self_attn*\", \"*embed*\", \"*norm*\"]"}, {"frozen"}));
  const std::string bytes = read_bytes(third / "parameters.safetensors");
  write_text_atomic(third / "parameters.safetensors",
                    std::string_view(bytes).substr(0, bytes.size() - 10));
  EXPECT_TRUE(fails(third.string(), {}, {"parameters.safetensors", "changed or cut"}));
  fs::remove(third / "DONE");
  EXPECT_TRUE(fails(third.string(), {}, {"not complete"}));
  fs::remove_all(checkpoints / "step-00000006");
  const std::string whole = world_.state("broken", 2);
  EXPECT_EQ(world_.run(file, {"checkpoint.every=2"}, "auto"),
            TrainEnd::kDone);  // falls back to step 2
  EXPECT_TRUE(fs::exists(checkpoints / "step-00000006" / "DONE"));
}

TEST_F(TrainerTest, ChangedFrozenWeightsAreNoticedOnResume) {
  world_.models();
  const fs::path file = world_.config("adapters", "frozen");
  world_.run(file);
  const fs::path model = world_.path("text") / "model";
  std::vector<NamedTensor> tensors = load_model_tensors(model);
  tensors.front().tensor = tensors.front().tensor.clone().add_(0.5);
  save_model_tensors(model, tensors);
  EXPECT_TRUE(throws_with<CheckpointError>([&] { world_.run(file, {}, "auto"); },
                                           {"frozen tensor", "other values"}));
}

TEST_F(TrainerTest, LossesThatAreNotFiniteAreSkippedAndBounded) {
  EXPECT_TRUE(throws_with<Error>(
      [&] {
        world_.run(world_.config("text", "nan"), {"steps=40", "max_bad_steps=3", "clip_norm=0",
                                                  "optimizer.0.lr=1e30", "optimizer.1.lr=1e30"});
      },
      {"not finite", "max_bad_steps 3"}));
}

TEST_F(TrainerTest, BadSamplesAreCountedAndCapped) {
  dir_.write("media/3.ppm", "no picture");
  EXPECT_TRUE(
      throws_with<DataError>([&] { world_.run(world_.config("pictures", "bad")); }, {"p3"}));
  EXPECT_EQ(world_.run(world_.config("pictures", "tolerant"), {"batch.max_bad_samples=9"}),
            TrainEnd::kDone);
}

}  // namespace
}  // namespace euromodal
