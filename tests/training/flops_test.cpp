// flops_test.cpp — operations per token of the 22B backbone against figures worked out by hand, and
// what a batch of a coupled model costs.
#include "training/flops.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/log.h"
#include "tests/training/tiny_world.h"
#include "training/data/dataset.h"
#include "training/objective.h"
#include "training/objectives/model_flops.h"

namespace euromodal {
namespace {

/// 54 layers of width 6144: 48 heads of 128, 21.85 G parameters in matrices.
StackCost flops_22b(bool trained) {
  StackCost out;
  out.matmul = 21'850'000'000;
  out.trained = trained ? out.matmul : 0;
  out.attention_width = 54 * 48 * 128;
  out.causal = true;
  return out;
}

TEST(FlopsTest, GigaflopPerTokenOfThe22BBackbone) {
  struct Row {
    int64_t rows;
    double forward, frozen, full;
  };
  for (const Row& row : {Row{2048, 45.1, 91.5, 135.2}, Row{4096, 46.4, 95.6, 139.3},
                         Row{8192, 49.1, 103.7, 147.4}, Row{32768, 65.4, 152.6, 196.3}}) {
    const double scale = 1e-9 / static_cast<double>(row.rows);
    StackCost cost = flops_22b(false);
    EXPECT_NEAR(stack_flops(cost, row.rows) * scale, row.forward, 0.06) << row.rows;
    cost.backward = true;
    EXPECT_NEAR(stack_flops(cost, row.rows) * scale, row.frozen, 0.11) << row.rows;
    cost = flops_22b(true);
    cost.backward = true;
    EXPECT_NEAR(stack_flops(cost, row.rows) * scale, row.full, 0.11) << row.rows;
  }
}

TEST(FlopsTest, MatricesAreCountedByPrefixAndByWhatIsTrained) {
  const auto tensor = [](at::IntArrayRef sizes, bool trained) {
    return at::zeros(sizes, at::kFloat).set_requires_grad(trained);
  };
  const StackCost cost = count_matrices({{"layers.0.q", tensor({4, 6}, false)},
                                         {"layers.0.norm", tensor({6}, true)},
                                         {"layers.1.q", tensor({4, 6}, true)},
                                         {"embed", tensor({100, 6}, true)}},
                                        "layers.");
  EXPECT_EQ(cost.matmul, 48);
  EXPECT_EQ(cost.trained, 24);
  EXPECT_EQ(stack_flops(cost, 0), 0.0);
  EXPECT_EQ(stack_flops(cost, 10), 2.0 * 48 * 10 + 2.0 * 24 * 10);
}

TEST(FlopsTest, ThePeakIsMeasured) { EXPECT_GT(measure_peak_flops(at::kFloat), 1e8); }

TEST(FlopsTest, OnlySamplesWithMediaNeedTheBackwardOfAFrozenBackbone) {
  set_log_level(LogLevel::kError);
  const TempDir dir;
  const TinyWorld world(dir);
  world.models();
  const Config config = Config::load(world.config("adapters", "run"));
  const auto objective = make_objective(config.child("objective"), 7, /*deterministic=*/false);
  for (const NamedTensor& p : objective->parameters())
    if (p.name.starts_with("adapter.")) p.tensor.set_requires_grad(true);
  const auto batch_of = [&](const std::string& file) {
    std::vector<Example> one;
    one.push_back(objective->prepare(Dataset::open(world.path(file))->get(0), Rng(0), true));
    return collate(std::move(one), false);
  };
  // Text: forward alone. Body: 2 layers; q, o 16 x 16, k, v 8 x 16, three of the MLP 24 x 16.
  const Batch text = batch_of("text.jsonl");
  const auto rows = static_cast<double>(text.ids_T.numel());
  double labels = 0.0;
  for (const int64_t label : text.examples[0].plan.labels) labels += label >= 0 ? 1.0 : 0.0;
  const double body = 2.0 * (2 * 256 + 2 * 128 + 3 * 384), head = 921.0 * 16;
  EXPECT_EQ(objective->flops(text),
            2.0 * body * rows + 2.0 * rows * rows * (2 * 16) + 2.0 * head * labels);
  // A picture: twice that and more, and less once its features are kept.
  const Batch picture = batch_of("pictures.jsonl");
  const double first = objective->flops(picture);
  EXPECT_GT(first, 4.0 * body * static_cast<double>(picture.ids_T.numel()));
  objective->loss(picture, /*training=*/true);
  EXPECT_LT(objective->flops(picture), first);
  set_log_level(LogLevel::kInfo);
}

}  // namespace
}  // namespace euromodal
