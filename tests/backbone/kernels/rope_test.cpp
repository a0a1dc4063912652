// rope_test.cpp — rotary tables of every scaling against transformers, rotation and its gradient.
#include "backbone/kernels/rope/rope.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "backbone/kernels/rope/rope_ref.h"
#include "backbone/weights/safetensors.h"
#include "core/json.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

RopeConfig small_config(int64_t head_dim) {
  RopeConfig config;
  config.head_dim = head_dim;
  config.max_positions = 64;
  return config;
}

RopeConfig golden_config(const JsonView& json) {
  RopeConfig config;
  config.type = json.str("rope_type", "default");
  config.theta = json.f64("theta");
  config.factor = json.f64("factor", 1.0);
  config.head_dim = json.i64("head_dim");
  config.max_positions = json.i64("max_positions");
  config.original_max_positions =
      json.i64("original_max_position_embeddings", config.max_positions);
  config.low_freq_factor = json.f64("low_freq_factor", 1.0);
  config.high_freq_factor = json.f64("high_freq_factor", 4.0);
  config.beta_fast = json.f64("beta_fast", 32.0);
  config.beta_slow = json.f64("beta_slow", 1.0);
  config.attention_factor = json.f64("attention_factor", -1.0);
  config.mscale = json.f64("mscale", 0.0);
  config.mscale_all_dim = json.f64("mscale_all_dim", 0.0);
  config.truncate = json.boolean("truncate", true);
  return config;
}

TEST(RopeTableTest, EveryTypeIsThatOfTransformersNearAndFar) {
  const std::filesystem::path dir = std::filesystem::path(EM_TEST_DIR) / "goldens";
  const Json cases = read_json(dir / "rope_tables.json");
  const SafetensorsFile file(dir / "rope_tables.safetensors");
  ASSERT_EQ(cases.size(), 9u);
  for (const auto& [name, json] : cases.items()) {
    const JsonView view(json, name);
    const std::vector<int64_t> positions = json.at("positions").get<std::vector<int64_t>>();
    const RopeTable table = rope_table(golden_config(view), positions.back() + 1,
                                       view.i64("sequence_length", positions.back() + 1));
    const at::Tensor rows = at::tensor(positions, at::kLong);
    // 32767 radians times the last bit of a frequency is 2e-3
    const Tolerance tolerance{2e-3, 0.0};
    EXPECT_TRUE(tensor_near(table.cos_PN.index_select(0, rows),
                            file.tensor(*file.find(name + ".cos")), tolerance))
        << name;
    EXPECT_TRUE(tensor_near(table.sin_PN.index_select(0, rows),
                            file.tensor(*file.find(name + ".sin")), tolerance))
        << name;
    const at::Tensor first = at::arange(0, 5, at::kLong);  // positions up to 255: tight
    EXPECT_TRUE(tensor_near(table.cos_PN.index_select(0, rows.narrow(0, 0, 5)),
                            file.tensor(*file.find(name + ".cos")).index_select(0, first),
                            {2e-5, 0.0}))
        << name;
  }
}

TEST(RopeTableTest, RefusesUnknownTypesAndOddWidths) {
  RopeConfig config = small_config(8);
  config.type = "su";
  EXPECT_TRUE((throws_with<ConfigError>([&] { rope_table(config, 4, 4); }, {"rope_type", "'su'"})));
  EXPECT_TRUE(
      (throws_with<ConfigError>([&] { rope_table(small_config(7), 4, 4); }, {"head_dim", "7"})));
}

TEST(RopeTest, MatchesReferenceForwardAndBackward) {
  for (const int64_t width : {2, 36, 48, 128}) {
    const RopeTable table = rope_table(small_config(width), 64, 64);
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
      for (const int64_t rows : {0, 1, 33}) {
        const at::Tensor positions = at::arange(0, rows, at::kLong).remainder(13);
        const auto leaf = [&] { return randn({rows, 3, width}, 1, dtype).requires_grad_(true); };
        const at::Tensor a = leaf(), b = leaf(), dy = randn({rows, 3, width}, 2, dtype);
        const at::Tensor y = rope(a, table, positions), want = rope_ref(b, table, positions);
        EXPECT_TRUE(tensor_near(y, want));
        y.backward(dy);
        want.backward(dy);
        EXPECT_TRUE(tensor_near(a.grad(), b.grad()));
      }
    }
  }
}

TEST(RopeTest, GradientsAreThoseOfCentralDifferences) {
  const RopeTable table = rope_table(small_config(6), 64, 64);
  EXPECT_TRUE(gradcheck(
      [&](const std::vector<at::Tensor>& in) {
        return rope(in[0], table, at::tensor(std::vector<int64_t>{0, 1, 40, 0}));
      },
      {randn({4, 2, 6}, 1)}));
}

TEST(RopeTest, TakesViewsAndKeepsBitsOfARow) {
  const RopeTable table = rope_table(small_config(16), 64, 64);
  const at::Tensor fused = randn({9, 6, 16}, 1), view = fused.narrow(1, 2, 3);
  const at::Tensor positions = at::arange(0, 9, at::kLong);
  const at::Tensor all = rope(view, table, positions);
  EXPECT_TRUE(same_bits(all, rope(view.contiguous(), table, positions)));
  for (int64_t t = 0; t < 9; ++t)
    EXPECT_TRUE(same_bits(all.narrow(0, t, 1),
                          rope(view.narrow(0, t, 1), table, positions.narrow(0, t, 1))));
}

TEST(MropeTest, MatchesReferenceForwardAndBackward) {
  const RopeTable table = rope_table(small_config(16), 64, 64);
  const at::Tensor positions =
      at::tensor({0, 5, 9, 63, 1, 7, 2, 2, 40, 33, 20, 11}, at::kLong).view({3, 4});
  for (const MropeSections& sections : {MropeSections{{2, 3, 3}, false}, {{4, 2, 2}, true}}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
      const auto leaf = [&] { return randn({4, 3, 16}, 1, dtype).requires_grad_(true); };
      const at::Tensor a = leaf(), b = leaf(), dy = randn({4, 3, 16}, 2, dtype);
      const at::Tensor y = mrope(a, table, positions, sections),
                       want = mrope_ref(b, table, positions, sections);
      EXPECT_TRUE(tensor_near(y, want));
      y.backward(dy);
      want.backward(dy);
      EXPECT_TRUE(tensor_near(a.grad(), b.grad()));
    }
  }
}

TEST(MropeTest, ThreeEqualPositionsAreOne) {
  const RopeTable table = rope_table(small_config(16), 64, 64);
  const at::Tensor x = randn({5, 2, 16}, 1), positions = at::tensor({9, 0, 3, 3, 63}, at::kLong);
  for (const bool interleaved : {false, true})
    EXPECT_TRUE(same_bits(mrope(x, table, positions.expand({3, 5}), {{2, 3, 3}, interleaved}),
                          rope(x, table, positions)));
}

TEST(MropeTest, RefusesSectionsAndPositionsThatDoNotFit) {
  const RopeTable table = rope_table(small_config(16), 8, 8);
  const at::Tensor x = randn({1, 1, 16}, 1), at = at::zeros({3, 1}, at::kLong);
  EXPECT_TRUE((throws_with<Error>(
      [&] {
        mrope(x, table, at, {{2, 3, 4}, false});
      },
      {"2, 3", "8"})));
  EXPECT_THROW(mrope(x, table, at::zeros({1}, at::kLong), {{2, 3, 3}, false}), Error);
  EXPECT_TRUE((throws_with<Error>(
      [&] {
        mrope(x, table, at + 8, {{2, 3, 3}, false});
      },
      {"position 8"})));
}

TEST(RopeTest, RefusesAPositionOutsideTheTable) {
  const RopeTable table = rope_table(small_config(4), 8, 8);
  EXPECT_TRUE((throws_with<Error>(
      [&] {
        rope(randn({1, 1, 4}, 1), table, at::tensor(std::vector<int64_t>{8}));
      },
      {"position 8", "8"})));
}

}  // namespace
}  // namespace euromodal
