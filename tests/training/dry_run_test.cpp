// dry_run_test.cpp — two steps as one rank of many without the others: bytes sent and held by ZeRO
// stage, nothing written, and the program's own option.
#include "training/dry_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/log.h"
#include "tests/support/program.h"
#include "tests/training/tiny_world.h"

namespace euromodal {
namespace {

class DryRunTest : public testing::Test {
 protected:
  DryRunTest() : world_(dir_) { set_log_level(LogLevel::kError); }
  ~DryRunTest() override { set_log_level(LogLevel::kInfo); }
  Json run(int ranks, const std::vector<std::string>& set) const {
    return dry_run(Config::load(world_.config("sounds", "planned"), set), ranks);
  }
  TempDir dir_;
  TinyWorld world_;
};

const std::vector<std::string> kAdamWAlone = {
    "run.deterministic=false", "batch.samples=8", "batch.parts=4",
    "optimizer=[{params: [\"*\"], type: adamw, lr: 0.003, betas: [0.9, 0.95], eps: 1.0e-8, "
    "weight_decay: 0.0}]"};

TEST_F(DryRunTest, BytesFollowTheZeroStage) {
  constexpr int kRanks = 4;
  std::vector<Json> plans;
  for (const char* zero : {"0", "1", "2"}) {
    auto set = kAdamWAlone;
    set.push_back(std::string("parallel.zero=") + zero);
    set.push_back("parallel.bucket_mb=0.004");
    plans.push_back(run(kRanks, set));
  }
  const int64_t n = plans[0]["trainable"].get<int64_t>();
  EXPECT_GT(n, 1000);
  const auto sent = [](const Json& plan, const char* operation) {
    const Json& step = plan["sent"]["step 1"];
    return step.contains(operation) ? step[operation]["bytes"].get<int64_t>() : 0;
  };
  const auto held = [](const Json& plan, const char* what) {
    return plan["bytes"][what].get<int64_t>();
  };
  // All-reduce: each rank sends all but its slice, and its slice to all; about 2 (n - 1) / n of it.
  const double slice = 4.0 * static_cast<double>(n) / kRanks;
  EXPECT_NEAR(static_cast<double>(sent(plans[0], "all_reduce_sum")), 6.0 * slice, 0.1 * slice);
  EXPECT_EQ(held(plans[0], "optimizer"), 8 * n);
  EXPECT_EQ(held(plans[0], "gradients"), 4 * n);
  for (const int zero : {1, 2}) {
    const Json& plan = plans[static_cast<size_t>(zero)];
    // Slices cut at blocks are uneven in tiny buckets, but reduced and gathered are the same.
    const int64_t own = held(plan, "optimizer") / 8;
    EXPECT_LT(own, n / 2);
    EXPECT_EQ(sent(plan, "reduce_scatter_sum"), 4 * (n - own));
    EXPECT_EQ(sent(plan, "all_gather_slices"), 4 * own * (kRanks - 1));
    EXPECT_LT(sent(plan, "all_reduce_sum"), 100);  // the loss
  }
  EXPECT_EQ(held(plans[1], "gradients"), 4 * n);
  EXPECT_LT(held(plans[2], "gradients"), 4 * n);
  for (const Json& plan : plans) {
    EXPECT_GE(plan["samples"].get<int>(), 2);  // of two steps of 8 samples over 4 ranks
    EXPECT_LE(plan["samples"].get<int>(), 8);
    EXPECT_EQ(plan["samples_per_step"], 8);
    EXPECT_EQ(plan["ranks"], kRanks);
    EXPECT_EQ(plan["steps"], 6);
  }
  EXPECT_FALSE(std::filesystem::exists(world_.path("planned")));
}

TEST_F(DryRunTest, OneRankSendsNothing) {
  const Json plan = run(1, kAdamWAlone);
  for (const auto& [name, step] : plan["sent"].items())
    for (const auto& [operation, count] : step.items())
      EXPECT_EQ(count["bytes"], 0) << name << " " << operation;
}

TEST_F(DryRunTest, TheProgramPrintsThePlan) {
  const auto file = world_.config("text", "planned").string();
  const ProgramResult result =
      run_program({"train", "--config", file, "--dry-run", "64", "--log-level", "error"});
  ASSERT_EQ(result.code, 0) << result.err;
  const Json plan = parse_json(result.out, "plan");
  EXPECT_EQ(plan["ranks"], 64);
  EXPECT_TRUE(plan["sent"]["step 1"].contains("reduce_scatter_sum"));
  EXPECT_FALSE(std::filesystem::exists(world_.path("planned")));
  EXPECT_EQ(run_program({"train", "--config", file, "--dry-run", "0"}).code, 2);
}

}  // namespace
}  // namespace euromodal
