// sampling_test.cpp — every processor against transformers' (goldens/sampling.json), and the draw.
#include "inference/sampling.h"

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

std::vector<float> row_of(const Json& json) {
  std::vector<float> out;
  for (const Json& number : json) out.push_back(number.is_null() ? kMinusInf : number.get<float>());
  return out;
}

TEST(SamplingTest, ProcessorsMatchTransformers) {
  using Row = std::span<float>;
  using Seen = std::span<const int64_t>;
  const std::map<std::string, std::function<void(Row, Seen)>> processors = {
      {"repetition", [](Row row, Seen seen) { penalize_repetition(row, seen, 1.3); }},
      {"repetition_below_1", [](Row row, Seen seen) { penalize_repetition(row, seen, 0.7); }},
      {"ngram1", [](Row row, Seen seen) { ban_repeated_ngrams(row, seen, 1); }},
      {"ngram2", [](Row row, Seen seen) { ban_repeated_ngrams(row, seen, 2); }},
      {"ngram3", [](Row row, Seen seen) { ban_repeated_ngrams(row, seen, 3); }},
      {"temperature", [](Row row, Seen) { apply_temperature(row, 0.7); }},
      {"top_k1", [](Row row, Seen) { keep_top_k(row, 1); }},
      {"top_k5", [](Row row, Seen) { keep_top_k(row, 5); }},
      {"top_k_all", [](Row row, Seen) { keep_top_k(row, 1000); }},
      {"top_p0", [](Row row, Seen) { keep_top_p(row, 0.0); }},
      {"top_p30", [](Row row, Seen) { keep_top_p(row, 0.3); }},
      {"top_p90", [](Row row, Seen) { keep_top_p(row, 0.9); }},
      {"top_p999", [](Row row, Seen) { keep_top_p(row, 0.999); }},
      {"min_p02", [](Row row, Seen) { keep_min_p(row, 0.02); }},
      {"min_p40", [](Row row, Seen) { keep_min_p(row, 0.4); }},
      {"min_p100", [](Row row, Seen) { keep_min_p(row, 1.0); }},
      {"typical20", [](Row row, Seen) { keep_typical(row, 0.2); }},
      {"typical90", [](Row row, Seen) { keep_typical(row, 0.9); }},
      {"all",
       [](Row row, Seen seen) {
         penalize_repetition(row, seen, 1.3);
         ban_repeated_ngrams(row, seen, 3);
         apply_temperature(row, 1.4);
         keep_top_k(row, 7);
         keep_top_p(row, 0.8);
       }},
  };
  const Json cases = read_json(EM_TEST_DIR "/goldens/sampling.json");
  ASSERT_EQ(cases.size(), 60U);
  for (const Json& golden : cases) {
    const auto name = golden["name"].get<std::string>();
    std::vector<float> row = row_of(golden["logits"]);
    processors.at(name)(row, golden["seen"].get<std::vector<int64_t>>());
    const std::vector<float> want = row_of(golden["expect"]);
    ASSERT_EQ(row.size(), want.size());
    for (size_t v = 0; v < row.size(); ++v) {
      if (want[v] == kMinusInf || row[v] == kMinusInf)
        EXPECT_EQ(row[v], want[v]) << name << " of " << row.size() << ", id " << v;
      else
        EXPECT_NEAR(row[v], want[v], 1e-6F * std::max(1.0F, std::abs(want[v]))) << name << " " << v;
    }
  }
}

TEST(SamplingTest, TopPSetIsTheSmallestThatReachesP) {
  // Probabilities 0.5, 0.25, 0.125, 0.125, far from every p that is asked for.
  const std::vector<float> logits = {std::log(0.125F), std::log(0.5F), std::log(0.25F),
                                     std::log(0.125F)};
  for (const auto& [p, kept] : std::map<double, size_t>{
           {0.0, 1}, {0.4, 1}, {0.6, 2}, {0.74, 2}, {0.8, 3}, {0.95, 4}, {1.0, 4}}) {
    std::vector<float> row = logits;
    keep_top_p(row, p);
    size_t left = 0;
    for (float logit : row) left += logit > kMinusInf ? 1 : 0;
    EXPECT_EQ(left, kept) << "p = " << p;
    EXPECT_GT(row[1], kMinusInf) << "p = " << p;
  }
}

TEST(SamplingTest, DrawsFollowTheProbabilities) {
  const std::vector<float> logits = {std::log(0.1F), kMinusInf, std::log(0.6F), std::log(0.3F)};
  std::vector<int64_t> counts(4, 0);
  constexpr int64_t kDraws = 20000;
  Rng rng(3);
  for (int64_t i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(draw_token(logits, rng))];
  EXPECT_EQ(counts[1], 0);
  // Five standard deviations of a share of 0.6 are 0.0173.
  EXPECT_NEAR(static_cast<double>(counts[0]) / kDraws, 0.1, 0.018);
  EXPECT_NEAR(static_cast<double>(counts[2]) / kDraws, 0.6, 0.018);
  EXPECT_NEAR(static_cast<double>(counts[3]) / kDraws, 0.3, 0.018);
}

TEST(SamplingTest, SameStreamSameDraws) {
  const std::vector<float> logits(100, 0.5F);
  std::set<int64_t> seen;
  for (uint64_t step = 0; step < 50; ++step) {
    Rng a = Rng(9).fork("sample", step), b = Rng(9).fork("sample", step);
    const int64_t id = draw_token(logits, a);
    EXPECT_EQ(id, draw_token(logits, b));
    seen.insert(id);
  }
  EXPECT_GT(seen.size(), 20U);
}

TEST(SamplingTest, NothingLeftIsAnError) {
  std::vector<float> row(3, 1.0F);
  ban_repeated_ngrams(row, std::vector<int64_t>{0, 1, 2}, 1);
  Rng rng(1);
  EXPECT_TRUE(throws_with<Error>([&] { (void)draw_token(row, rng); }, {"no token is left"}));
}

TEST(SamplingTest, IdsBeyondTheRowAreIgnored) {
  std::vector<float> row = {1.0F, 2.0F};
  penalize_repetition(row, std::vector<int64_t>{5, -3, 1}, 2.0);
  ban_repeated_ngrams(row, std::vector<int64_t>{5, 7, 5}, 2);
  EXPECT_EQ(row, (std::vector<float>{1.0F, 1.0F}));
}

TEST(SamplingTest, PresenceAndFrequencyCountNewTokens) {
  std::vector<float> row = {1.0F, 2.0F, 3.0F};
  penalize_presence(row, std::vector<int64_t>{2, 0, 2, 9, -1}, 0.5, 0.25);
  EXPECT_EQ(row, (std::vector<float>{0.25F, 2.0F, 2.0F}));
}

TEST(SamplingTest, LogSoftmaxSumsToOne) {
  std::vector<float> row = {100.0F, 101.0F, 98.5F, -1000.0F};
  log_softmax(row);
  double sum = 0.0;
  for (float x : row) sum += std::exp(static_cast<double>(x));
  EXPECT_NEAR(sum, 1.0, 1e-6);
  EXPECT_NEAR(row[1] - row[0], 1.0, 1e-6);
}

}  // namespace
}  // namespace euromodal
