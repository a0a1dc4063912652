// watchdog_test.cpp — the watchdog fires for every kind of hang, the flight records of the ranks
// name the collective and the ranks at fault: in this process, and in real runs under mpirun.
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "core/files.h"
#include "tests/support/temp.h"
#include "tests/training/dist/mpi_run.h"
#include "training/dist/flight_report.h"
#include "training/dist/watched_world.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

bool watchdog_until(const std::function<bool()>& done) {
  for (int i = 0; i < 1000 && !done(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return done();
}

TEST(FlightRecordTest, SaysWhereTheRankStands) {
  FlightRecord record(/*capacity=*/3);
  record.set_rank(1, 4);
  record.set_phase("step 7", 5.0);
  EXPECT_TRUE(record.now().inside.empty());
  const int64_t ticket = record.enqueue({"all_reduce_sum", 100, "f32", "world"});
  EXPECT_TRUE(record.now().inside.empty()) << "on its way, but the rank does not wait";
  EXPECT_EQ(record.now().pending, 1);
  record.block(ticket);
  EXPECT_EQ(record.now().inside, "all_reduce_sum of 100 f32 (number 1)");
  EXPECT_TRUE(record.now().waiting);
  record.started("world", 1);
  EXPECT_FALSE(record.now().waiting);
  record.ended(ticket);
  EXPECT_TRUE(record.now().inside.empty());
  EXPECT_EQ(record.now().pending, 0);
  EXPECT_GT(record.blocked_s(), 0.0);
  const int64_t other = record.enqueue({"barrier", 0, "", "node a"});
  record.block(other);
  EXPECT_EQ(record.now().inside, "barrier in group node a (number 1)") << "numbers count by group";
  record.failed(other);
  EXPECT_TRUE(record.now().inside.empty());
  EXPECT_EQ(record.now().phase, "step 7");
  EXPECT_EQ(record.now().deadline_s, 5.0);
  for (int i = 0; i < 5; ++i) record.ended(record.enqueue({"barrier", 0, "", "world"}));
  record.ended(ticket);  // dropped from the ring long ago: no effect
  const Json json = record.json("asked");
  EXPECT_EQ(json["rank"], 1);
  EXPECT_EQ(json["reason"], "asked");
  ASSERT_EQ(json["calls"].size(), 3);
  EXPECT_EQ(json["calls"][2]["sequence"], 6);
  EXPECT_GE(json["calls"][2]["end_s"].get<double>(), json["calls"][2]["enqueue_s"].get<double>());
}

class WatchdogTest : public testing::Test {
 protected:
  WatchdogOptions options(double setup_s = 60.0) {
    return {.folder = dir_ / "flight",
            .setup_deadline_s = setup_s,
            .grace_s = 0.0,
            .end = [this](int code) { code_ = code; }};
  }
  Json record(int rank) const {
    return read_json(dir_ / "flight" / fmt::format("rank-{}.json", rank));
  }

  TempDir dir_;
  std::atomic<int> code_{0};
};

TEST_F(WatchdogTest, FiresWhenTheRankHangsOutsideAnyCollective) {
  Watchdog watchdog(options());
  const auto world = make_watched_world(watchdog);
  world->set_phase("checkpoint", 0.2);
  EXPECT_TRUE(watchdog_until([&] { return code_ == kDeadlineExit; }));
  EXPECT_THAT(record(0)["reason"].get<std::string>(),
              testing::AllOf(HasSubstr("rank 0 of 1 on host"), HasSubstr("phase 'checkpoint'"),
                             HasSubstr("deadline 0.2 s"), HasSubstr("this rank itself hangs")));
}

TEST_F(WatchdogTest, FiresInSetup) {
  const Watchdog watchdog(options(0.1));
  EXPECT_TRUE(watchdog_until([&] { return code_ == kDeadlineExit; }));
  EXPECT_EQ(record(0)["phase"], "setup");
}

TEST_F(WatchdogTest, ProgressKeepsItQuietAndNothingIsWritten) {
  {
    Watchdog watchdog(options());
    const auto world = make_watched_world(watchdog);
    world->set_phase("step 1", 20.0);
    for (int i = 0; i < 20; ++i) world->barrier();
  }
  EXPECT_EQ(code_, 0);
  EXPECT_FALSE(fs::exists(dir_ / "flight"));
}

TEST_F(WatchdogTest, Sigusr2WritesTheRecordOfARunningRank) {
  Watchdog watchdog(options());
  const auto world = make_watched_world(watchdog);
  world->set_phase("step 3", 60.0);
  world->barrier();
  ::raise(SIGUSR2);
  EXPECT_TRUE(watchdog_until([&] { return fs::exists(dir_ / "flight" / "rank-0.json"); }));
  EXPECT_EQ(record(0)["reason"], fmt::format("signal {}", SIGUSR2));
  EXPECT_EQ(record(0)["calls"][0]["operation"], "barrier");
  EXPECT_EQ(code_, 0);
}

// Stopped in a phase that has much time, woken and asked in the next one, which has little.
TEST_F(WatchdogTest, AStopIsTriedByThePhaseInWhichOneAsks) {
  Watchdog watchdog(options());
  watchdog.record().set_phase("data 3", 60.0);
  const auto start = std::chrono::steady_clock::now();
  const std::string self = std::to_string(::getpid());
  ASSERT_EQ(std::system(("(kill -STOP " + self + "; sleep 3; kill -CONT " + self + ") &").c_str()),
            0);
  ASSERT_TRUE(watchdog_until([&] {  // (10 s of naps; a second for the watchdog to look at it)
    return std::chrono::steady_clock::now() - start > std::chrono::milliseconds(4200);
  }));
  const auto stood_still_s = [&](double deadline_s) {
    watchdog.record().set_phase("step 3", deadline_s);
    std::this_thread::sleep_for(std::chrono::milliseconds(600));  // the watchdog's nap of before
    fs::remove(dir_ / "flight" / "rank-0.json");
    ::raise(SIGUSR2);
    EXPECT_TRUE(watchdog_until([&] { return fs::exists(dir_ / "flight" / "rank-0.json"); }));
    return record(0)["stood_still_s"].get<double>();
  };
  EXPECT_GT(stood_still_s(4.0), 2.0);
  EXPECT_EQ(stood_still_s(60.0), 0.0);  // of no account there
}

TEST_F(WatchdogTest, TheRecordOfAnEarlierRunIsKeptAside) {
  dir_.write("flight/rank-7.json", "{}");
  Watchdog watchdog(options());
  const auto world = make_watched_world(watchdog);
  EXPECT_FALSE(fs::exists(dir_ / "flight"));
  EXPECT_TRUE(fs::exists(dir_ / "flight.before" / "rank-7.json"));
}

TEST_F(WatchdogTest, AFolderThatCannotBeWrittenDoesNotHideTheFault) {
  dir_.write("flight", "a file is in the way");
  WatchdogOptions broken = options(0.1);
  broken.folder = dir_ / "flight" / "below";
  const Watchdog watchdog(broken);
  EXPECT_TRUE(watchdog_until([&] { return code_ == kDeadlineExit; }));
}

TEST(FlightReportTest, RanksThatDidNotArriveAreNamedWithTheirPlace) {
  const TempDir dir;
  for (int rank = 0; rank < 5; ++rank) {
    if (rank == 3) continue;  // wrote nothing
    FlightRecord record;
    record.set_rank(rank, 5);
    record.set_phase("step 2", 60);
    record.ended(record.enqueue({"barrier", 0, "", "world"}));
    if (rank != 1) record.enqueue({"all_reduce_sum", 8, "f32", "world"});
    if (rank == 1) record.set_phase("data 3", 60);
    dir.write(fmt::format("rank-{}.json", rank), record.json("test").dump());
  }
  const Json report = flight_report(dir.path());
  EXPECT_EQ(report["difference"],
            "number 2 of world: ranks 0, 2, 4 are in all_reduce_sum of 8 f32 (phase 'step 2'); "
            "ranks 1, 3 did not arrive");
  EXPECT_THAT(report["absent"].get<std::vector<int>>(), ElementsAre(1, 3));
  EXPECT_THAT(report["without_record"].get<std::vector<int>>(), ElementsAre(3));
  EXPECT_THAT(report["verdict"].get<std::string>(),
              testing::AllOf(HasSubstr("was in phase 'data 3', outside any collective"),
                             HasSubstr("rank 3 wrote no record")));
}

TEST(FlightReportTest, ARankThatWasStoppedAndWokenIsNamedAlthoughItHasCome) {
  const TempDir dir;
  for (int rank = 0; rank < 2; ++rank) {
    FlightRecord record;
    record.set_rank(rank, 2);
    record.block(record.enqueue({"barrier", 0, "", "world"}));
    if (rank == 1) record.set_stood_still(4.0);
    dir.write(fmt::format("rank-{}.json", rank), record.json("test").dump());
  }
  const Json report = flight_report(dir.path());
  EXPECT_TRUE(report["difference"].is_null());
  EXPECT_THAT(report["absent"].get<std::vector<int>>(), ElementsAre(1));
  EXPECT_THAT(report["verdict"].get<std::string>(), HasSubstr("stood still for 4.0 s"));
}

TEST(FlightReportTest, AgreeingRanksHaveNoDifference) {
  const TempDir dir;
  for (int rank = 0; rank < 3; ++rank) {
    FlightRecord record(/*capacity=*/4);
    record.set_rank(rank, 3);
    // A ring that dropped other calls, a group that rank 2 is no member of, unequal shares.
    for (int i = 0; i < 4 + rank; ++i) record.ended(record.enqueue({"barrier", 0, "", "world"}));
    if (rank < 2) record.ended(record.enqueue({"barrier", 0, "", "node a"}));
    dir.write(fmt::format("rank-{}.json", rank), record.json("test").dump());
  }
  EXPECT_TRUE(flight_report(dir.path())["difference"].is_null());
  const TempDir empty;
  EXPECT_FALSE(is_flight_folder(empty.path()));
  EXPECT_THROW(flight_report(empty.path()), Error);
}

TEST_F(WatchdogTest, UnderMpirunAStoppedRankIsNamed) {
  const MpiRun run = run_mpi("stop " + (dir_ / "flight").string(), 3);
  EXPECT_EQ(run.code, kDeadlineExit) << run.output;
  EXPECT_LT(run.seconds, 30);
  EXPECT_THAT(run.output, HasSubstr("phase 'step 5': no progress for 1."));
  EXPECT_THAT(run.output, HasSubstr("in barrier (number 2): not every rank has come"));
  const Json report = flight_report(dir_ / "flight");
  EXPECT_THAT(report["absent"].get<std::vector<int>>(), ElementsAre(2)) << report.dump(1);
  EXPECT_THAT(report["difference"].get<std::string>(),
              HasSubstr("number 2 of world: ranks 0-1 are in barrier (phase 'step 5'); ranks 2"));
}

TEST_F(WatchdogTest, UnderMpirunARankThatHangsElsewhereEndsTheRunItself) {
  const MpiRun run = run_mpi("hang " + (dir_ / "flight").string(), 2);
  EXPECT_EQ(run.code, kDeadlineExit) << run.output;
  EXPECT_LT(run.seconds, 30);
  EXPECT_THAT(run.output, HasSubstr("rank 1 of 2 on host"));
  EXPECT_THAT(run.output, HasSubstr("phase 'data 10': no progress for 1."));
  EXPECT_THAT(run.output, HasSubstr("outside any collective: this rank itself hangs"));
  EXPECT_THAT(record(1)["reason"].get<std::string>(), HasSubstr("phase 'data 10'"));
}

TEST_F(WatchdogTest, UnderMpirunARankThatHangsWhileASumIsOnItsWayIsNamed) {
  const MpiRun run = run_mpi("pending " + (dir_ / "flight").string(), 2);
  EXPECT_EQ(run.code, kDeadlineExit) << run.output;
  EXPECT_THAT(run.output, HasSubstr("rank 1 of 2 on host"));
  EXPECT_THAT(run.output, HasSubstr("outside any collective (1 on their way)"));
  const Json report = flight_report(dir_ / "flight");
  EXPECT_THAT(report["verdict"].get<std::string>(),
              HasSubstr("ranks 0 wait, ranks 1 are outside any collective"));
}

TEST_F(WatchdogTest, UnderMpirunARankInAnotherCollectiveIsNamed) {
  const MpiRun run = run_mpi("mismatch " + (dir_ / "flight").string(), 2);
  EXPECT_EQ(run.code, 1) << run.output;
  const Json report = flight_report(dir_ / "flight");
  EXPECT_THAT(report["difference"].get<std::string>(),
              testing::AllOf(HasSubstr("number 1 of world:"),
                             HasSubstr("ranks 1 are in all_reduce_sum of 1 f32 (phase 'step 7')"),
                             HasSubstr("ranks 0 are in barrier (phase 'step 7')")));
  EXPECT_THAT(report["reasons"].dump(), HasSubstr("the ranks are in different collectives"));
}

TEST_F(WatchdogTest, UnderMpirunEveryRankGivesItsRecordOnSigusr2AndGoesOn) {
  const MpiRun run = run_mpi("usr2 " + (dir_ / "flight").string(), 2);
  EXPECT_EQ(run.code, 0) << run.output;
  EXPECT_THAT(run.output, HasSubstr("usr2: 2 ranks: ok"));
  EXPECT_EQ(flight_report(dir_ / "flight")["records"], 2);
}

}  // namespace
}  // namespace euromodal
