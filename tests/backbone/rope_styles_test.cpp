// rope_styles_test.cpp — config.json in the older and the newer style of RoPE is the same model,
// and its tables are those of transformers (goldens of make_config_goldens.py).
#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/llama_config.h"

namespace euromodal {
namespace {

TEST(RopeStylesTest, OldAndNewStyleGiveTheTablesOfTransformers) {
  const Json goldens = read_json(EM_TEST_DIR "/goldens/rope_styles.json");
  ASSERT_EQ(goldens.size(), 14U);
  for (const Json& golden : goldens) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    const LlamaConfig old_style = LlamaConfig::from_json(JsonView(golden["old"], "old")),
                      new_style = LlamaConfig::from_json(JsonView(golden["new"], "new"));
    EXPECT_EQ(old_style.to_json().dump(), new_style.to_json().dump());
    const auto frequencies = golden["inv_freq"].get<std::vector<double>>();
    const auto factor = golden["attention_scaling"].get<double>();
    const int64_t positions = new_style.max_positions;
    const RopeTable table = rope_table(new_style.rope, positions, positions);
    ASSERT_EQ(table.cos_PN.size(1), static_cast<int64_t>(2 * frequencies.size()));
    const auto cos_PN = table.cos_PN.accessor<float, 2>(),
               sin_PN = table.sin_PN.accessor<float, 2>();
    for (const int64_t p : {0, 1, 7, 63, 64, 200, 255}) {
      for (size_t i = 0; i < frequencies.size(); ++i) {
        const double angle = static_cast<double>(p) * frequencies[i];
        for (const size_t half : {size_t{0}, frequencies.size()}) {
          const auto n = static_cast<int64_t>(i + half);
          // Frequencies are f32, so angles near 255 are known to 1.5e-5.
          EXPECT_NEAR(cos_PN[p][n], factor * std::cos(angle), 4e-5) << p << " " << n;
          EXPECT_NEAR(sin_PN[p][n], factor * std::sin(angle), 4e-5) << p << " " << n;
        }
      }
    }
  }
}

}  // namespace
}  // namespace euromodal
