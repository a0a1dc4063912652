// step_plan_test.cpp — batches by a budget of rows: every sample once an epoch, even batches, any
// step without those before it.
#include "training/data/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp.h"

namespace euromodal {
namespace {

class CostsDataset final : public Dataset {
 public:
  explicit CostsDataset(std::vector<double> costs) : costs_(std::move(costs)) {}
  int64_t size() const override { return static_cast<int64_t>(costs_.size()); }
  std::string name() const override { return "costs"; }
  std::string fingerprint() const override { return "costs"; }
  double cost(int64_t index) const override { return costs_[index]; }
  Sample get(int64_t) const override { return {}; }

 private:
  std::vector<double> costs_;
};

std::vector<double> plan_costs(int64_t size) {
  std::vector<double> out;
  for (int64_t i = 0; i < size; ++i) out.push_back(1.0 + static_cast<double>(i * 37 % 101));
  return out;
}

TEST(StepPlanTest, SamplesGoOnOverTheEndsOfEpochs) {
  const auto plan = plan_samples(6);
  EXPECT_EQ(plan->range(0).first, 0);
  EXPECT_EQ(plan->range(7).first, 42);
  EXPECT_EQ(plan->range(7).count, 6);
}

TEST(StepPlanTest, ABudgetOfRowsGivesEvenBatchesThatCoverEveryEpochOnce) {
  const CostsDataset data(plan_costs(500));
  double total = 0.0;
  for (int64_t i = 0; i < 500; ++i) total += data.cost(i);
  const Sampler sampler(500, 9, /*shuffle=*/true);
  const auto plan = plan_rows(data, sampler, 700);
  const auto steps = static_cast<int64_t>(std::ceil(total / 700.0));
  const double share = total / static_cast<double>(steps);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    int64_t next = epoch * 500;
    for (int64_t k = 0; k < steps; ++k) {
      const StepRange range = plan->range(epoch * steps + k);
      EXPECT_EQ(range.first, next);
      EXPECT_GT(range.count, 0);
      next += range.count;
      double rows = 0.0;
      for (int64_t i = 0; i < range.count; ++i) rows += data.cost(sampler.at(range.first + i));
      EXPECT_LT(rows, share + 101.0);
      EXPECT_GT(rows, share - 101.0);
    }
    EXPECT_EQ(next, (epoch + 1) * 500);
  }
  // Any step by itself, as after a restart.
  for (const int64_t step : {2 * steps + 3, steps - 1, int64_t{0}, steps}) {
    const StepRange want = plan->range(step), got = plan_rows(data, sampler, 700)->range(step);
    EXPECT_EQ(got.first, want.first) << step;
    EXPECT_EQ(got.count, want.count) << step;
  }
}

TEST(StepPlanTest, NoStepIsEmptyWhateverTheCosts) {
  for (const auto& costs : std::vector<std::vector<double>>{
           {100, 1, 1, 1, 1}, {7}, {5, 5, 5, 5}, {1, 1, 1, 60, 1, 1}, {50, 50, 1}}) {
    const CostsDataset data(costs);
    for (const int64_t budget : {100, 101, 150}) {
      const auto plan = plan_rows(data, Sampler(data.size(), 1, true), budget);
      for (int64_t step = 0; step < 12; ++step) EXPECT_GT(plan->range(step).count, 0);
    }
  }
}

TEST(StepPlanTest, ASampleAboveTheBudgetIsNamed) {
  const CostsDataset data({3, 900, 5});
  EXPECT_TRUE((throws_with<ConfigError>([&] { plan_rows(data, Sampler(3, 1, true), 899); },
                                        {"batch.tokens 899", "sample 1", "costs", "900"})));
}

}  // namespace
}  // namespace euromodal
