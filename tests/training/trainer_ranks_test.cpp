// trainer_ranks_test.cpp — `euromodal train` under mpirun: 1, 2 and 3 ranks give the same bits in
// deterministic mode, a run resumes on another number of ranks, survives SIGKILL at any moment
// (also while it saves), and a rank's fault ends all with one clear message.
#include <csignal>
#include <thread>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/log.h"
#include "tests/support/program.h"
#include "tests/training/tiny_world.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class TrainerRanksTest : public testing::Test {
 protected:
  TrainerRanksTest() : world_(dir_) { set_log_level(LogLevel::kError); }
  ~TrainerRanksTest() override { set_log_level(LogLevel::kInfo); }

  /// Exit code of `train` under mpirun; stderr into `log`.
  int train(int ranks, const fs::path& config, const std::string& more = "") const {
    const std::string line = fmt::format(
        "cd {} && timeout 120 {} --oversubscribe --bind-to none --allow-run-as-root -n {} {} train "
        "--config {} {} > {} 2>&1",
        shell_quoted(dir_.path().string()), EM_MPIRUN, ranks, EM_PROGRAM, config.string(), more,
        (dir_ / "log").string());
    const int status = std::system(line.c_str());  // NOLINT: tests
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string log() const { return read_bytes(dir_ / "log"); }

  TempDir dir_;
  TinyWorld world_;
};

TEST_F(TrainerRanksTest, AnyNumberOfRanksGivesTheSameBits) {
  world_.models();
  for (const char* objective : {"text", "adapters"}) {
    for (const int ranks : {1, 2, 3, 4}) {
      const std::string run = fmt::format("{}_{}", objective, ranks);
      ASSERT_EQ(train(ranks, world_.config(objective, run)), 0) << log();
    }
    for (const int ranks : {2, 3, 4})
      EXPECT_EQ(world_.state(fmt::format("{}_{}", objective, ranks)),
                world_.state(std::string(objective) + "_1"))
          << objective << " on " << ranks;
    const auto last_loss = [&](int ranks) {
      const std::string text =
          read_bytes(world_.path(fmt::format("{}_{}", objective, ranks)) / "metrics.jsonl");
      const auto at = text.rfind("\"loss\":");
      return text.substr(at, text.find(',', at) - at);
    };
    EXPECT_EQ(last_loss(2), last_loss(1));
    EXPECT_EQ(last_loss(3), last_loss(1));
  }
}

TEST_F(TrainerRanksTest, ResumesOnAnotherNumberOfRanks) {
  ASSERT_EQ(train(1, world_.config("sounds", "whole"),
                  "--set checkpoint.every=2 --set checkpoint.keep=9"),
            0)
      << log();
  const std::string resume =
      "--resume " + (world_.path("whole") / "checkpoints" / "step-00000002").string();
  ASSERT_EQ(train(3, world_.config("sounds", "other"), resume), 0) << log();
  EXPECT_EQ(world_.state("other"), world_.state("whole"));
}

TEST_F(TrainerRanksTest, WeightsAndBatchesOfTextAloneGiveTheSameBits) {
  world_.models();
  // Not shuffled, the first steps are text alone: no gradient, but every rank enters.
  const std::string more =
      "--set batch.shuffle=false --set steps=5 --set objective.loss_weight=sqrt --set "
      "objective.kind_weights='{text: 0.7, image: 1.3}' --set objective.z_loss=1e-3 --set "
      "objective.augment='{image: {noise: 0.1}}'";
  for (const int ranks : {1, 3})
    ASSERT_EQ(train(ranks, world_.config("adapters", fmt::format("mixture_{}", ranks)), more), 0)
        << log();
  EXPECT_EQ(world_.state("mixture_3", 5), world_.state("mixture_1", 5));
}

TEST_F(TrainerRanksTest, SigkillAtAnyMomentLosesNothing) {
  const std::vector<std::string> set = {"steps=40", "checkpoint.every=1", "checkpoint.keep=2"};
  const fs::path whole = world_.config("text", "whole"), killed = world_.config("text", "killed");
  world_.run(whole, set);
  Rng rng(5);
  for (int round = 0; round < 6; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      const int null = ::open("/dev/null", O_WRONLY);
      ::dup2(null, STDERR_FILENO);
      ::execl(EM_PROGRAM, EM_PROGRAM, "train", "--config", killed.c_str(), "--set", set[0].c_str(),
              "--set", set[1].c_str(), "--set", set[2].c_str(), "--resume", "auto", nullptr);
      ::_exit(127);
    }
    // Once it trains, it saves after every step: the kill falls into a save about every other time.
    for (int i = 0; i < 1000 && !fs::exists(world_.path("killed") / "metrics.jsonl"); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::this_thread::sleep_for(std::chrono::milliseconds(300 + rng.below(300)));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status)) {  // it was done before
      EXPECT_EQ(WEXITSTATUS(status), 0);
    }
  }
  ASSERT_EQ(world_.run(killed, set, "auto"), TrainEnd::kDone);
  EXPECT_EQ(world_.state("killed", 40), world_.state("whole", 40));
  for (const auto& entry : fs::directory_iterator(world_.path("killed") / "checkpoints"))
    EXPECT_TRUE(fs::exists(entry.path() / "DONE")) << entry.path();
}

TEST_F(TrainerRanksTest, AFaultOfOneRankEndsAllWithOneMessage) {
  dir_.write("media/3.ppm", "no picture");
  const int code = train(2, world_.config("pictures", "bad"));
  EXPECT_NE(code, 0);
  EXPECT_NE(code, 124) << "it hung";
  EXPECT_THAT(log(), testing::HasSubstr("p3"));
  EXPECT_FALSE(fs::exists(world_.path("bad") / "model"));
}

TEST_F(TrainerRanksTest, ASignalToMpirunStopsWithItsOwnCode) {
  // mpirun passes SIGTERM on to the ranks; they save together and leave.
  const fs::path file = world_.config("text", "stopped");
  std::thread sender([&] {
    for (int i = 0; i < 4000 && !fs::exists(world_.path("stopped") / "metrics.jsonl"); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    [[maybe_unused]] const int sent = std::system(
        ("pkill -TERM -f '^" + std::string(EM_PROGRAM) + " train --config " + file.string() + "'")
            .c_str());  // NOLINT: tests
  });
  const int code = train(2, file, "--set steps=100000 --set checkpoint.keep=1");
  sender.join();
  EXPECT_NE(code, 0);
  EXPECT_NE(code, 124) << "it hung";
  EXPECT_THAT(log(), testing::HasSubstr("--resume auto"));
  EXPECT_FALSE(fs::is_empty(world_.path("stopped") / "checkpoints")) << log();
}

TEST_F(TrainerRanksTest, LoraOnTwoRanksGivesTheBitsOfOne) {
  world_.models();
  const std::string set =
      "--set 'objective.model.backbone.lora={rank: 2, alpha: 4, dropout: 0.1, targets: [q_proj, "
      "down_proj]}' --set 'objective.model.image.encoder.lora={rank: 2, alpha: 4, targets: [fc1]}' "
      "--set 'trainable=[\"*.lora_*\"]' --set 'optimizer=[{params: [\"*\"], type: adamw, lr: 0.01, "
      "betas: [0.9, 0.95], eps: 1.0e-8, weight_decay: 0.0}]'";
  ASSERT_EQ(train(1, world_.config("adapters", "one"), set), 0) << log();
  ASSERT_EQ(train(2, world_.config("adapters", "two"), set), 0) << log();
  EXPECT_EQ(world_.state("two"), world_.state("one"));
}

}  // namespace
}  // namespace euromodal
