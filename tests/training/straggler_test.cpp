// straggler_test.cpp — which rank is named as slow and when; the deadlines and straggler keys of a
// run's YAML.
#include "training/straggler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp.h"
#include "training/deadlines.h"

namespace euromodal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::vector<std::string> kHosts = {"a", "a", "b", "b"};

TEST(StragglerTest, OnlyARankThatStaysSlowIsNamedWithItsHost) {
  StragglerJudge judge({.factor = 1.2, .intervals = 3});
  const RankTimes usual{.data = 0.1, .compute = 1.0, .waiting = 0.4},
      slow{.data = 0.3, .compute = 1.2, .waiting = 0.0};
  const std::vector<RankTimes> even(4, usual), uneven = {usual, usual, slow, usual};
  EXPECT_THAT(judge.judge(uneven, kHosts, 10), IsEmpty());
  EXPECT_THAT(judge.judge(uneven, kHosts, 10), IsEmpty());
  EXPECT_THAT(judge.judge(even, kHosts, 10), IsEmpty()) << "a good interval starts it anew";
  EXPECT_THAT(judge.judge(uneven, kHosts, 10), IsEmpty());
  EXPECT_THAT(judge.judge(uneven, kHosts, 10), IsEmpty());
  EXPECT_THAT(
      judge.judge(uneven, kHosts, 10),
      ElementsAre(HasSubstr("rank 2 on host b is slow: 0.150 s a step of its own work (data "
                            "0.030, compute 0.120) against a median of 0.110 s, 1.36 times, "
                            "for 3 log intervals in a row")));
  EXPECT_THAT(judge.judge(uneven, kHosts, 10), IsEmpty()) << "not in every interval";
}

TEST(StragglerTest, WaitingForOthersIsNotSlowAndOneRankHasNoMedian) {
  StragglerJudge judge({.factor = 1.2, .intervals = 1});
  const RankTimes usual{.data = 0.1, .compute = 1.0, .waiting = 0.4},
      waits{.data = 0.1, .compute = 1.0, .waiting = 9.0};
  EXPECT_THAT(judge.judge({usual, waits}, {"a", "b"}, 10), IsEmpty());
  EXPECT_THAT(judge.judge({waits}, {"a"}, 10), IsEmpty());
  // Ratios of steps of microseconds are noise.
  EXPECT_THAT(judge.judge({{.compute = 1e-4}, {.compute = 9e-4}}, {"a", "b"}, 10), IsEmpty());
  EXPECT_THAT(judge.judge({usual, {.data = 0.1, .compute = 2.0}}, {"a", "b"}, 10),
              ElementsAre(HasSubstr("rank 1 on host b")))
      << "of two ranks the slower one is named";
}

TEST(StragglerTest, TheRowHoldsMeansAndTheSlowestRank) {
  const Json row = StragglerJudge::row({{.data = 1.0, .compute = 3.0, .waiting = 2.0},
                                        {.data = 1.0, .compute = 7.0, .waiting = 0.0},
                                        {.data = 1.0, .compute = 3.0, .waiting = 4.0}},
                                       /*steps=*/10);
  EXPECT_DOUBLE_EQ(row["waiting_s"].get<double>(), 0.2);
  EXPECT_EQ(row["slowest_rank"], 1);
  EXPECT_DOUBLE_EQ(row["slowest_ratio"].get<double>(), 2.0);
}

TEST(StragglerTest, AWorldOfOneMeasuresItsOwnTime) {
  const auto world = make_single();
  Straggler straggler(*world, {});
  straggler.step_begins();
  straggler.data_here();
  straggler.step_ends();
  const Json row = straggler.report();
  EXPECT_EQ(row["waiting_s"], 0.0);
  EXPECT_EQ(row["slowest_rank"], 0);
}

TEST(DeadlinesTest, ShortAndLongForm) {
  const auto parse = [](const std::string& yaml) {
    return PhaseDeadlines::parse(Config::parse(yaml));
  };
  EXPECT_EQ(parse("{}").step, 600.0);
  EXPECT_EQ(parse("{}").setup, 1800.0);
  EXPECT_EQ(parse("step_deadline_s: 30").step, 30.0);
  EXPECT_EQ(parse("step_deadline_s: 30").data, 30.0);
  EXPECT_EQ(parse("step_deadline_s: 30").checkpoint, 1800.0);
  const PhaseDeadlines all = parse(
      "deadlines: {setup: 1, data: 2, step: 3, checkpoint: 4, validation: 5, model: 6, shutdown: "
      "7.5}");
  EXPECT_EQ(all.setup, 1.0);
  EXPECT_EQ(all.data, 2.0);
  EXPECT_EQ(all.step, 3.0);
  EXPECT_EQ(all.checkpoint, 4.0);
  EXPECT_EQ(all.validation, 5.0);
  EXPECT_EQ(all.model, 6.0);
  EXPECT_EQ(all.shutdown, 7.5);
  EXPECT_TRUE(throws_with<ConfigError>([&] { parse("deadlines: {step: 0}"); },
                                       {"deadlines.step", "above 0"}));
  EXPECT_TRUE(throws_with<ConfigError>([&] { parse("{step_deadline_s: 5, deadlines: {data: 3}}"); },
                                       {"deadlines.data", "one of the two"}));
}

TEST(StragglerTest, OptionsAreChecked) {
  const auto parse = [](const std::string& yaml) {
    return StragglerOptions::parse(Config::parse(yaml));
  };
  EXPECT_EQ(parse("{}").factor, 1.2);
  EXPECT_EQ(parse("straggler: {factor: 1.5, intervals: 2}").intervals, 2);
  EXPECT_TRUE(throws_with<ConfigError>([&] { parse("straggler: {factor: 1.0}"); }, {"factor"}));
  EXPECT_TRUE(throws_with<ConfigError>([&] { parse("straggler: {intervals: 0}"); }, {"intervals"}));
}

}  // namespace
}  // namespace euromodal
