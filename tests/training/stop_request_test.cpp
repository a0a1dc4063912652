// stop_request_test.cpp — times of the YAML and of Slurm, and which requests a rank sees.
#include "training/stop_request.h"

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/files.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

using Clock = std::chrono::steady_clock;

TEST(DurationTest, WordsAndSeconds) {
  const auto read = [](const std::string& text) {
    return parse_duration(Config::parse("{t: " + text + "}"), "t");
  };
  EXPECT_EQ(read("90"), 90.0);
  EXPECT_EQ(read("0.5"), 0.5);
  EXPECT_EQ(read("3h30m"), 12600.0);
  EXPECT_EQ(read("1d12h"), 129600.0);
  EXPECT_EQ(read("1m5s"), 65.0);
  EXPECT_EQ(read("1h30"), 3630.0);
  for (const char* wrong :
       {"0", "-5", "30m3h", "3 hours", "h", "1h1h", "5x", "3h-1m", "inf", "nan"})
    EXPECT_TRUE(throws_with<ConfigError>([&] { read(wrong); }, {"t: expected a time", wrong}));
}

TEST(StopRequestTest, TheEarlierOfLimitAndSlurmCounts) {
  const auto now = Clock::now();
  const Config none = Config::parse("{}"), hour = Config::parse("{wall_clock_limit: 1h}");
  ::unsetenv("SLURM_JOB_END_TIME");
  EXPECT_FALSE(run_deadline(none, now).has_value());
  EXPECT_EQ(run_deadline(hour, now), now + std::chrono::hours(1));
  const auto unix_now = std::chrono::duration_cast<std::chrono::seconds>(
                            std::chrono::system_clock::now().time_since_epoch())
                            .count();
  ::setenv("SLURM_JOB_END_TIME", std::to_string(unix_now + 600).c_str(), 1);
  EXPECT_LT(run_deadline(hour, now), now + std::chrono::minutes(11));
  EXPECT_GT(run_deadline(none, now), now + std::chrono::minutes(8));
  ::setenv("SLURM_JOB_END_TIME", "tomorrow", 1);
  EXPECT_TRUE(throws_with<ConfigError>([&] { run_deadline(none, now); }, {"tomorrow"}));
  ::unsetenv("SLURM_JOB_END_TIME");
}

TEST(StopRequestTest, LeavesWhileACheckpointStillFits) {
  const TempDir dir;
  const auto at = [&](double seconds, double checkpoint_s) {
    StopRequest request({.dir = dir.path(),
                         .deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                        std::chrono::duration<double>(seconds)),
                         .leader = true});
    return request.votes(checkpoint_s);
  };
  EXPECT_FALSE(at(1000.0, 100.0).leave());
  EXPECT_TRUE(at(1000.0, 495.0).leave());
  EXPECT_TRUE(at(-5.0, 0.0).leave());
  EXPECT_EQ(at(-5.0, 0.0).reason(), "the end of its time");
  StopRequest other({.dir = dir.path(), .deadline = Clock::now(), .leader = false});
  EXPECT_FALSE(other.votes(0.0).leave());  // rank 0 watches the clock
}

TEST(StopRequestTest, FilesAreRequestsAndAreRemovedWhenHonoured) {
  const TempDir dir;
  dir.write("stop", "");  // from a run before
  StopRequest request({.dir = dir.path(), .deadline = std::nullopt, .leader = true});
  EXPECT_FALSE(std::filesystem::exists(dir / "stop"));
  dir.write("save", "");
  const StopVotes votes = request.votes(0.0);
  EXPECT_TRUE(votes.save());
  EXPECT_FALSE(votes.leave());
  request.honoured(votes);
  EXPECT_FALSE(std::filesystem::exists(dir / "save"));
}

TEST(StopRequestTest, ASignalIsARequest) {
  const TempDir dir;
  StopRequest request({.dir = dir.path(), .deadline = std::nullopt, .leader = false});
  EXPECT_FALSE(request.votes(0.0).leave());
  ::raise(SIGUSR1);
  EXPECT_TRUE(request.votes(0.0).leave());
  EXPECT_TRUE(request.votes(0.0).save());
  EXPECT_EQ(request.votes(0.0).reason(), "a signal");
}

}  // namespace
}  // namespace euromodal
