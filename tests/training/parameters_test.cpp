// parameters_test.cpp — patterns, groups, the schedule and the CTC text functions.
#include <ATen/ATen.h>

#include "tests/support/temp.h"
#include "training/objectives/ctc_text.h"
#include "training/parameter_groups.h"
#include "training/schedule.h"

namespace euromodal {
namespace {

std::vector<NamedTensor> some_parameters() {
  const at::Tensor shared = at::zeros({3, 4});
  return {{"layers.0.norm.weight", at::zeros({4})},
          {"layers.0.mlp.weight", at::zeros({4, 4})},
          {"embed.weight", shared},
          {"head.weight", shared}};
}

TEST(ParameterGroupsTest, GlobsMatchAsWritten) {
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("adapter.*", "adapter.image.linear_1.weight"));
  EXPECT_TRUE(glob_match("*.norm.*", "layers.0.norm.weight"));
  EXPECT_TRUE(glob_match("a*b*c", "aXbYbZc"));
  EXPECT_TRUE(glob_match("layers.?.x", "layers.3.x"));
  EXPECT_FALSE(glob_match("layers.?.x", "layers.13.x"));
  EXPECT_FALSE(glob_match("adapter", "adapter.image"));
  EXPECT_FALSE(glob_match("a*b", "aXc"));
}

TEST(ParameterGroupsTest, SharedTensorsAreListedOnce) {
  const auto all = select_trainable(some_parameters(), {"*"}, "trainable");
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[2].name, "embed.weight");
}

TEST(ParameterGroupsTest, PatternsWithoutAMatchAreErrors) {
  EXPECT_TRUE((throws_with<ConfigError>(
      [] {
        select_trainable(some_parameters(), {"layers.*", "adaptor.*"}, "f.yaml:3: trainable");
      },
      {"f.yaml:3: trainable", "adaptor.*"})));
  const Config config = Config::parse(
      "optimizer:\n  - {params: ['*nrom*'], type: adamw, lr: 1.0, betas: [0.9, 0.9], eps: "
      "1.0e-8}\n");
  EXPECT_TRUE((throws_with<ConfigError>(
      [&] { assign_groups(some_parameters(), parse_groups(config, "optimizer", 100)); },
      {"*nrom*"})));
}

TEST(ParameterGroupsTest, FirstGroupWinsAndFaultsAreNamed) {
  const Config config = Config::parse(
      "optimizer:\n"
      "  - {params: ['*norm*', 'embed*', 'head*'], type: adamw, lr: 1.0, betas: [0.9, 0.9], eps: "
      "1.0e-8}\n"
      "  - {params: ['*'], type: muon, lr: 1.0, momentum: 0.9}\n");
  const auto groups = parse_groups(config, "optimizer", 100);
  EXPECT_EQ(assign_groups(some_parameters(), groups), (std::vector<int64_t>{0, 1, 0, 0}));
  const std::vector<GroupOptions> only_muon = {groups[1]};
  EXPECT_TRUE((throws_with<ConfigError>([&] { assign_groups(some_parameters(), only_muon); },
                                        {"layers.0.norm.weight", "[4]", "muon"})));
  const std::vector<GroupOptions> only_first = {groups[0]};
  EXPECT_TRUE((throws_with<ConfigError>([&] { assign_groups(some_parameters(), only_first); },
                                        {"layers.0.mlp.weight"})));
}

TEST(ParameterGroupsTest, WrongNumbersNameTheKey) {
  for (const auto& [text, word] : std::vector<std::pair<std::string, std::string>>{
           {"{params: ['*'], type: adamw, lr: 0.0, betas: [0.9, 0.9], eps: 1.0e-8}", "lr"},
           {"{params: ['*'], type: adamw, lr: 1.0, betas: [0.9], eps: 1.0e-8}", "betas"},
           {"{params: ['*'], type: adamw, lr: 1.0, betas: [0.9, 1.0], eps: 1.0e-8}", "betas"},
           {"{params: ['*'], type: adam, lr: 1.0}", "type"},
           {"{params: ['*'], type: muon, lr: 1.0, momentum: 0.9, ns_steps: 0}", "ns_steps"}}) {
    const Config config = Config::parse("optimizer:\n  - " + text + "\n");
    EXPECT_TRUE((throws_with<ConfigError>([&] { parse_groups(config, "optimizer", 100); },
                                          {std::string_view(word)})))
        << text;
  }
}

TEST(ScheduleTest, TrapezoidRisesHoldsAndFalls) {
  const Schedule s({Schedule::Kind::kTrapezoid, 0.1, 0.4, 0.02}, 100);
  EXPECT_DOUBLE_EQ(s.factor(0), 0.1);
  EXPECT_DOUBLE_EQ(s.factor(9), 1.0);
  EXPECT_DOUBLE_EQ(s.factor(49), 1.0);
  EXPECT_DOUBLE_EQ(s.factor(74), 0.51);
  EXPECT_DOUBLE_EQ(s.factor(99), 0.02);
}

TEST(ScheduleTest, OtherShapesEndAtFinal) {
  for (const auto kind : {Schedule::Kind::kLinear, Schedule::Kind::kCosine}) {
    const Schedule s({kind, 0.2, 0.0, 0.1}, 50);
    EXPECT_DOUBLE_EQ(s.factor(49), 0.1);
    EXPECT_NEAR(s.factor(29), 0.55, 1e-12);  // half way down
    for (int64_t t = 10; t < 49; ++t) EXPECT_GT(s.factor(t), s.factor(t + 1));
  }
  EXPECT_DOUBLE_EQ(Schedule({Schedule::Kind::kConstant, 0.0, 0.0, 1.0}, 5).factor(4), 1.0);
}

TEST(ScheduleTest, InverseSqrtFallsFromTheEndOfTheWarmUp) {
  const Schedule s({Schedule::Kind::kInverseSqrt, 0.1, 0.0, 1.0}, 100);
  EXPECT_DOUBLE_EQ(s.factor(4), 0.5);
  EXPECT_DOUBLE_EQ(s.factor(9), 1.0);
  EXPECT_DOUBLE_EQ(s.factor(39), 0.5);  // four times the warm-up
  EXPECT_NEAR(s.factor(89), 1.0 / 3.0, 1e-12);
  const Config none = Config::parse("{type: inverse_sqrt, warmup: 0.0}");
  EXPECT_TRUE((throws_with<ConfigError>([&] { Schedule::parse(none, 10); }, {"warmup"})));
}

TEST(ScheduleTest, WsdIsATrapezoid) {
  const std::string rest = "warmup: 0.1, constant: 0.5, final: 0.1}";
  const Schedule a = Schedule::parse(Config::parse("{type: wsd, " + rest), 40),
                 b = Schedule::parse(Config::parse("{type: trapezoid, " + rest), 40);
  for (int64_t step = 0; step < 40; ++step) EXPECT_EQ(a.factor(step), b.factor(step));
  EXPECT_LT(a.factor(39), a.factor(20));
}

TEST(ScheduleTest, AGroupMayHaveItsOwn) {
  const Config config = Config::parse(
      "optimizer:\n"
      "  - {params: ['a'], type: muon, lr: 1.0, momentum: 0.9, schedule: {type: linear, warmup: "
      "0.0, final: 0.5}}\n"
      "  - {params: ['b'], type: muon, lr: 1.0, momentum: 0.9}\n");
  const auto groups = parse_groups(config, "optimizer", 10);
  ASSERT_TRUE(groups[0].schedule.has_value());
  EXPECT_DOUBLE_EQ(groups[0].schedule->factor(9), 0.5);  // of the run's ten steps
  EXPECT_FALSE(groups[1].schedule.has_value());
  config.finish();
}

TEST(ScheduleTest, SharesBeyondTheRunAreErrors) {
  const Config c = Config::parse("{type: trapezoid, warmup: 0.7, constant: 0.4, final: 0.0}");
  EXPECT_TRUE((throws_with<ConfigError>([&] { Schedule::parse(c, 10); }, {"0.7", "0.4"})));
  const Config d = Config::parse("{type: linear, warmup: 1.5, final: 0.0}");
  EXPECT_TRUE((throws_with<ConfigError>([&] { Schedule::parse(d, 10); }, {"warmup"})));
}

TEST(CtcTextTest, EncodesCollapsesAndMeasures) {
  const CtcAlphabet alphabet({"a", "ö", " "}, "alphabet.txt");
  EXPECT_EQ(alphabet.symbols(), 4);
  EXPECT_EQ(alphabet.encode("aö aa"), (std::vector<int64_t>{1, 2, 3, 1, 1}));
  EXPECT_TRUE((throws_with<DataError>([&] { alphabet.encode("ab"); }, {"\"b\"", "alphabet.txt"})));
  EXPECT_TRUE((throws_with<ConfigError>([] { CtcAlphabet({"ab"}, "x.txt"); }, {"x.txt:1"})));
  EXPECT_EQ(ctc_rows_needed({1, 1, 2, 2, 2}), 8);
  const std::vector<int64_t> best = {0, 1, 1, 0, 1, 2, 2, 0};
  EXPECT_EQ(ctc_collapse(best.data(), 8), (std::vector<int64_t>{1, 1, 2}));
  EXPECT_EQ(edit_distance({1, 2, 3}, {1, 3}), 1);
  EXPECT_EQ(edit_distance({}, {1, 3}), 2);
  EXPECT_EQ(edit_distance({1, 2}, {2, 1}), 2);
}

}  // namespace
}  // namespace euromodal
