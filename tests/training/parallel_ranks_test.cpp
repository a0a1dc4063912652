// parallel_ranks_test.cpp — `euromodal train` under mpirun with overlap, small buckets and every
// ZeRO stage: the checkpoints hold the same bytes, and a run goes on at another stage on another
// number of ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "core/log.h"
#include "tests/support/program.h"
#include "tests/training/tiny_world.h"

namespace euromodal {
namespace {

class ParallelRanksTest : public testing::Test {
 protected:
  ParallelRanksTest() : world_(dir_) { set_log_level(LogLevel::kError); }
  ~ParallelRanksTest() override { set_log_level(LogLevel::kInfo); }

  /// Three steps of "text" as `run`; its state afterwards.
  std::string train(int ranks, const std::string& run, const std::string& more) const {
    const std::string line = fmt::format(
        "cd {} && timeout 120 {} --oversubscribe --bind-to none --allow-run-as-root -n {} {} train "
        "--config {} --set steps=3 --set parallel.bucket_mb=0.004 {} > {} 2>&1",
        shell_quoted(dir_.path().string()), EM_MPIRUN, ranks, EM_PROGRAM,
        world_.config("text", run).string(), more, (dir_ / "log").string());
    const int status = std::system(line.c_str());  // NOLINT: tests
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << read_bytes(dir_ / "log");
    return world_.state(run, 3);
  }

  TempDir dir_;
  TinyWorld world_;
};

TEST_F(ParallelRanksTest, ZeroStagesGiveTheSameCheckpointsInBothModes) {
  const std::string alone = train(1, "alone", "--set parallel.zero=2");
  for (const int ranks : {2, 3}) {
    std::string fast;
    for (const int zero : {0, 1, 2}) {
      const std::string name = fmt::format("_{}_{}", ranks, zero),
                        set = fmt::format("--set parallel.zero={}", zero);
      EXPECT_EQ(train(ranks, "exact" + name, set), alone) << ranks << " ranks, ZeRO " << zero;
      const std::string state =
          train(ranks, "fast" + name,
                set + fmt::format(" --set run.deterministic=false --set parallel.overlap={}",
                                  zero == 1 ? "false" : "true"));
      if (zero == 0) fast = state;
      EXPECT_EQ(state, fast) << ranks << " ranks, fast, ZeRO " << zero;
    }
    EXPECT_NE(fast, alone);  // other additions: the comparison sees bits
  }
}

TEST_F(ParallelRanksTest, ResumesAtAnotherStageOnAnotherNumberOfRanks) {
  const std::string every = " --set checkpoint.every=1 --set checkpoint.keep=9";
  const std::string whole = train(3, "whole", "--set parallel.zero=2" + every);
  const auto resume = [&](int64_t step) {
    return " --resume " +
           (world_.path("whole") / "checkpoints" / fmt::format("step-{:08}", step)).string();
  };
  EXPECT_EQ(train(2, "to_0", "--set parallel.zero=0" + resume(1)), whole);
  EXPECT_EQ(train(2, "to_1", "--set parallel.zero=1" + resume(2)), whole);
  EXPECT_EQ(train(1, "to_2", "--set parallel.zero=2" + resume(2)), whole);
}

}  // namespace
}  // namespace euromodal
