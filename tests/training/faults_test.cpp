// faults_test.cpp — the drills in short (scripts/drills runs the long ones): every fault ends in a
// clear message within its deadline, with its own exit code, and a resumed run ends with the bits
// of an undisturbed one.
#include <atomic>
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backbone/weights/safetensors.h"
#include "core/json.h"
#include "core/log.h"
#include "tests/training/tiny_world.h"
#include "tests/training/train_process.h"
#include "training/dist/flight_report.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class FaultsTest : public testing::Test {
 protected:
  FaultsTest() : world_(dir_) { set_log_level(LogLevel::kError); }
  ~FaultsTest() override { set_log_level(LogLevel::kInfo); }

  TrainProcess start(int ranks, const std::string& run, const std::string& objective,
                     std::vector<std::string> set, const std::string& before = "") {
    std::vector<std::string> words;
    for (const std::string& value : set) words.insert(words.end(), {"--set", value});
    words.insert(words.end(), {"--resume", "auto"});
    return {ranks, world_.config(objective, run), dir_ / (run + ".log"), words, before};
  }
  bool trains(const std::string& run) const {
    return TrainProcess::until([&] {
      return fs::exists(world_.path(run) / "metrics.jsonl") &&
             fs::file_size(world_.path(run) / "metrics.jsonl") > 0;
    });
  }

  TempDir dir_;
  TinyWorld world_;
};

TEST_F(FaultsTest, AStoppedRankEndsTheRunAtTheDeadlineAndNothingIsLost) {
  const std::vector<std::string> set = {"steps=30",
                                        "checkpoint.every=5",
                                        "log_every=1",
                                        "run.deadlines.step=2",
                                        "run.deadlines.data=20",
                                        "run.deadlines.checkpoint=20"};
  TrainProcess run = start(2, "stopped", "text", set);
  ASSERT_TRUE(trains("stopped")) << run.log();
  run.signal(1, SIGSTOP);
  EXPECT_EQ(run.wait(), kDeadlineExit) << run.log();
  EXPECT_THAT(run.log(), HasSubstr("no progress for 2."));
  EXPECT_THAT(run.log(), HasSubstr("rank 0 of 2 on host"));
  const ProgramResult told =
      run_program({"inspect", (world_.path("stopped") / "flight").string(), "--json"});
  ASSERT_EQ(told.code, 0) << told.err;
  const Json report = Json::parse(told.out);
  EXPECT_THAT(report["absent"].get<std::vector<int>>(), testing::ElementsAre(1)) << told.out;
  // It was stopped before, in, or behind a collective: another word each, the same rank.
  EXPECT_THAT(report["verdict"].get<std::string>(), HasSubstr("rank 1"));

  EXPECT_EQ(start(2, "stopped", "text", set).wait(), 0);
  world_.run(world_.config("text", "whole"), {"steps=30"});
  EXPECT_EQ(world_.state("stopped", 30), world_.state("whole", 30));
}

TEST_F(FaultsTest, WorkThatTakesTooLongIsTheRanksOwnHang) {
  dir_.write("media/3.wav", tiny_sound(0, 16000 * 1800));  // many seconds to prepare
  TrainProcess run = start(2, "late", "sounds", {"run.deadlines.data=2", "run.step_deadline_s=30"});
  EXPECT_EQ(run.wait(), 1) << "the two forms exclude each other";
  EXPECT_THAT(run.log(), HasSubstr("give one of the two"));
  TrainProcess again = start(2, "late", "sounds", {"run.deadlines.data=0.1"});
  EXPECT_EQ(again.wait(), kDeadlineExit) << again.log();
  EXPECT_THAT(again.log(), HasSubstr("phase 'data "));
  EXPECT_THAT(again.log(), HasSubstr("outside any collective: this rank itself hangs"));
}

TEST_F(FaultsTest, Sigusr2DoesNotDisturbARun) {
  const std::vector<std::string> set = {"steps=40", "log_every=1"};
  TrainProcess run = start(0, "asked", "text", set);
  ASSERT_TRUE(trains("asked")) << run.log();
  run.signal(0, SIGUSR2);
  EXPECT_TRUE(TrainProcess::until(
      [&] { return fs::exists(world_.path("asked") / "flight" / "rank-0.json"); }));
  EXPECT_EQ(run.wait(), 0) << run.log();
  world_.run(world_.config("text", "whole"), {"steps=40"});
  EXPECT_EQ(world_.state("asked", 40), world_.state("whole", 40));
}

TEST_F(FaultsTest, AFullDiskIsNamedAndLeavesNoHalfCheckpoint) {
  // 40 blocks of 1 KiB a file: the checkpoint does not fit. XFSZ is ignored as a full disk has
  // none.
  const std::vector<std::string> set = {"checkpoint.every=2"};
  TrainProcess run = start(0, "full", "text", set, "trap '' XFSZ; ulimit -f 40; ");
  EXPECT_EQ(run.wait(), 1) << run.log();
  EXPECT_THAT(run.log(), HasSubstr("File too large"));
  EXPECT_THAT(run.log(), HasSubstr("checkpoints/"));
  for (const auto& entry : fs::directory_iterator(world_.path("full") / "checkpoints"))
    EXPECT_FALSE(fs::exists(entry.path() / "DONE")) << entry.path();
  TrainProcess again = start(0, "full", "text", set);
  EXPECT_EQ(again.wait(), 0) << again.log();
  world_.run(world_.config("text", "whole"), set);
  EXPECT_EQ(world_.state("full"), world_.state("whole"));
}

TEST_F(FaultsTest, ATruncatedCheckpointIsNamedAndTheOneBeforeGoesOn) {
  const std::vector<std::string> set = {"checkpoint.every=2", "checkpoint.keep=9"};
  world_.run(world_.config("text", "whole"), set);
  world_.run(world_.config("text", "torn"), set);
  const fs::path newest = world_.path("torn") / "checkpoints" / "step-00000006";
  fs::resize_file(newest / "parameters.safetensors",
                  fs::file_size(newest / "parameters.safetensors") / 2);
  TrainProcess run = start(0, "torn", "text", set);
  EXPECT_EQ(run.wait(), 1) << run.log();
  EXPECT_THAT(run.log(), HasSubstr("step-00000006"));
  EXPECT_THAT(run.log(), HasSubstr("parameters.safetensors was changed or cut"));
  fs::remove_all(newest);
  TrainProcess again = start(0, "torn", "text", set);
  EXPECT_EQ(again.wait(), 0) << again.log();
  EXPECT_EQ(world_.state("torn"), world_.state("whole"));
}

/// A WAV of 32-bit floats with not-a-number in the middle: it decodes, and its loss is none.
std::string faults_poisoned_sound() {
  const auto u32 = [](uint32_t v) { return std::string(reinterpret_cast<const char*>(&v), 4); };
  const auto u16 = [](uint16_t v) { return std::string(reinterpret_cast<const char*>(&v), 2); };
  std::vector<float> pcm(4000, 0.1F);
  for (int i = 1000; i < 3000; ++i) pcm[i] = std::numeric_limits<float>::quiet_NaN();
  const auto bytes = static_cast<uint32_t>(4 * pcm.size());
  return "RIFF" + u32(36 + bytes) + "WAVEfmt " + u32(16) + u16(3) + u16(1) + u32(16000) +
         u32(64000) + u16(4) + u16(32) + "data" + u32(bytes) +
         std::string(reinterpret_cast<const char*>(pcm.data()), bytes);
}

TEST_F(FaultsTest, ASampleThatIsNotANumberIsNamedAndLeftOut) {
  dir_.write("media/5.wav", faults_poisoned_sound());
  TrainProcess strict = start(0, "strict", "sounds", {"steps=4"});  // one pass over 24 samples
  EXPECT_EQ(strict.wait(), 1) << strict.log();
  EXPECT_THAT(strict.log(), testing::AllOf(HasSubstr("id s5"), HasSubstr("not a finite number")));
  TrainProcess run = start(0, "poisoned", "sounds", {"steps=4", "batch.max_bad_samples=1"});
  EXPECT_EQ(run.wait(), 0) << run.log();
  const SafetensorsFile stored(world_.path("poisoned") / "checkpoints" / "step-00000004" /
                               "parameters.safetensors");
  for (const TensorInfo& info : stored.infos())
    EXPECT_TRUE(stored.tensor(info).isfinite().all().item<bool>()) << info.name;
}

TEST_F(FaultsTest, ALossThatIsNoNumberEndsTheRunAndTheCheckpointBeforeGoesOn) {
  const std::vector<std::string> set = {"steps=20", "checkpoint.every=10"};
  world_.run(world_.config("text", "whole"), set);
  world_.run(world_.config("text", "burst"), set);
  fs::remove_all(world_.path("burst") / "checkpoints" / "step-00000020");
  std::vector<std::string> broken = set;
  broken.insert(broken.end(), {"optimizer.0.lr=1.0e30", "max_bad_steps=2"});
  TrainProcess run = start(0, "burst", "text", broken);
  EXPECT_EQ(run.wait(), 1) << run.log();
  EXPECT_THAT(run.log(), testing::AllOf(HasSubstr("not finite"), HasSubstr("max_bad_steps 2")));
  TrainProcess again = start(0, "burst", "text", set);
  EXPECT_EQ(again.wait(), 0) << again.log();
  EXPECT_EQ(world_.state("burst", 20), world_.state("whole", 20));
}

TEST_F(FaultsTest, ARankThatIsSlowIsNamed) {
  TrainProcess run =
      start(2, "slow", "text",
            {"steps=100000", "log_every=20", "run.straggler.intervals=2", "checkpoint.keep=1"});
  ASSERT_TRUE(trains("slow")) << run.log();
  const pid_t slow = run.rank(1);
  std::atomic<bool> stop{false};
  std::thread brake([&] {  // stopped two thirds of the time
    while (!stop) {
      ::kill(slow, SIGSTOP);
      std::this_thread::sleep_for(std::chrono::milliseconds(40));
      ::kill(slow, SIGCONT);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  EXPECT_TRUE(run.logged("rank 1 on host")) << run.log();
  stop = true;
  brake.join();
  run.signal(0, SIGUSR1);
  EXPECT_EQ(run.wait(), kStoppedExit) << run.log();
  EXPECT_THAT(run.log(), HasSubstr("is slow: "));
  EXPECT_THAT(read_bytes(world_.path("slow") / "metrics.jsonl"), HasSubstr("\"slowest_ratio\":"));
}

}  // namespace
}  // namespace euromodal
