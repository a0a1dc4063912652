// mix_test.cpp — mixtures with whole and fractional repeats, their config, and the sampler's order.
#include <map>
#include <numeric>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp.h"
#include "training/data/dataset.h"

namespace euromodal {
namespace {

std::filesystem::path text_corpus(const TempDir& dir, const std::string& name, int64_t samples) {
  std::string lines;
  for (int64_t i = 0; i < samples; ++i)
    lines +=
        fmt::format(R"({{"id": "{}{}", "messages": [{{"role": "assistant", "parts": ["x"]}}]}})"
                    "\n",
                    name, i);
  return dir.write(name + ".jsonl", lines);
}

std::vector<std::string> ids(const Dataset& data) {
  std::vector<std::string> all;
  for (int64_t i = 0; i < data.size(); ++i) {
    const Sample sample = data.get(i);
    EXPECT_EQ(sample.index, i);
    all.push_back(sample.record.id);
  }
  return all;
}

TEST(MixTest, RepeatsCountAndAreTheSameEveryTime) {
  const TempDir dir;
  const auto a = text_corpus(dir, "a", 100), b = text_corpus(dir, "b", 10),
             c = text_corpus(dir, "c", 7);
  const auto make = [&] {
    std::vector<DatasetPart> parts;
    parts.push_back({Dataset::open(a), 0.25});
    parts.push_back({Dataset::open(b), 2.5});
    parts.push_back({Dataset::open(c), 1.0});
    return mix(std::move(parts));
  };
  const auto data = make();
  EXPECT_EQ(data->size(), 25 + 25 + 7);
  const auto all = ids(*data);
  EXPECT_EQ(all, ids(*make()));
  EXPECT_EQ(data->fingerprint(), make()->fingerprint());
  std::map<char, std::map<std::string, int>> seen;
  for (const auto& id : all) ++seen[id[0]][id];
  EXPECT_EQ(seen['a'].size(), 25U);  // a fraction names nobody twice
  EXPECT_EQ(seen['b'].size(), 10U);
  for (const auto& [id, count] : seen['b']) EXPECT_TRUE(count == 2 || count == 3) << id;
  EXPECT_EQ(seen['c'].size(), 7U);
  // The quarter is spread over the data set, not its first 25 samples.
  int64_t late = 0;
  for (const auto& [id, count] : seen['a']) late += std::stoi(id.substr(1)) >= 50;
  EXPECT_GT(late, 5);
  EXPECT_LT(late, 20);
}

TEST(MixTest, ConfigListIsCheckedAndNamed) {
  const TempDir dir;
  const auto a = text_corpus(dir, "a", 4).string();
  const auto open = [](const std::string& yaml) {
    const Config config = Config::parse(yaml, "run.yaml");
    auto data = open_datasets(config, "data");
    config.finish();
    return data;
  };
  EXPECT_EQ(open("data: [{path: " + a + "}]")->size(), 4);
  EXPECT_EQ(open("data: [{path: " + a + ", repeat: 1.5}, {path: " + a + "}]")->size(), 10);
  EXPECT_THROW(open("data: []"), ConfigError);
  EXPECT_TRUE((throws_with<ConfigError>([&] { open("data: [{path: " + a + ", repeat: 0}]"); },
                                        {"run.yaml", "repeat"})));
  EXPECT_TRUE((throws_with<ConfigError>([&] { open("data: [{path: " + a + ", weight: 0}]"); },
                                        {"run.yaml", "weight"})));
  EXPECT_TRUE((throws_with<ConfigError>(
      [&] { open("data: [{path: " + a + ", weight: 2, repeat: 1}]"); }, {"exclude"})));
  EXPECT_TRUE((throws_with<ConfigError>(
      [&] { open("data: [{path: " + a + ", weight: 2}, {path: " + a + "}]"); },
      {"every data set has a weight"})));
  EXPECT_TRUE((throws_with<DataError>([&] { open("data: [{path: /no/such.jsonl}]"); },
                                      {"/no/such.jsonl", "run.yaml"})));
  EXPECT_TRUE((throws_with<DataError>([&] { open("data: [{path: " + a + ", repeat: 0.01}]"); },
                                      {"no samples"})));
}

TEST(MixTest, WeightsAreSharesOfTheSamplesOfAnEpoch) {
  const TempDir dir;
  const auto a = text_corpus(dir, "a", 60), b = text_corpus(dir, "b", 10);
  const auto open = [&](const std::string& weight_a, const std::string& weight_b) {
    return open_datasets(
        Config::parse("data: [{path: " + a.string() + ", weight: " + weight_a +
                          "}, {path: " + b.string() + ", weight: " + weight_b + "}]",
                      "run.yaml"),
        "data");
  };
  const auto counts = [&](const Dataset& data) {
    std::map<char, std::map<std::string, int>> seen;
    for (const auto& id : ids(data)) ++seen[id[0]][id];
    return seen;
  };
  // Three of four samples from a: all 60 of it once, so 20 of the 10 of b, each twice.
  const auto more = open("3", "1");
  EXPECT_EQ(more->size(), 80);
  auto seen = counts(*more);
  EXPECT_EQ(seen['a'].size(), 60U);
  for (const auto& [id, count] : seen['b']) EXPECT_EQ(count, 2) << id;
  EXPECT_EQ(seen['b'].size(), 10U);
  // Half and half, named by any scale; the smaller one six times.
  EXPECT_EQ(open("0.5", "0.5")->size(), 120);
  EXPECT_EQ(open("7", "7")->fingerprint(), open("1", "1")->fingerprint());
  // Most from the small one: it is the other that the epoch waits for.
  EXPECT_EQ(open("1", "9")->size(), 600);
  // A share that is no whole number of repeats.
  seen = counts(*open("4", "1"));
  for (const auto& [id, count] : seen['b']) EXPECT_TRUE(count == 1 || count == 2) << id;
  EXPECT_EQ(repeats_of_weights({60, 10}, {4, 1})[1], 1.5);
}

TEST(SamplerTest, EveryEpochIsAnotherPermutation) {
  const Sampler sampler(37, 5, /*shuffle=*/true);
  std::vector<std::vector<int64_t>> epochs(4);
  for (int64_t g = 0; g < 4 * 37; ++g) {
    EXPECT_EQ(sampler.epoch_of(g), g / 37);
    epochs[g / 37].push_back(sampler.at(g));
  }
  std::vector<int64_t> every(37);
  std::iota(every.begin(), every.end(), 0);
  std::set<std::vector<int64_t>> different;
  for (const auto& epoch : epochs) {
    EXPECT_THAT(epoch, testing::UnorderedElementsAreArray(every));
    EXPECT_NE(epoch, every);
    different.insert(epoch);
  }
  EXPECT_EQ(different.size(), 4U);
}

TEST(SamplerTest, OrderIsAFunctionOfSeedAndPositionAlone) {
  const Sampler a(1000, 5, true), b(1000, 5, true), other(1000, 6, true);
  int64_t same = 0;
  for (int64_t g = 2999; g >= 0; --g) {  // asked backwards
    EXPECT_EQ(a.at(g), b.at(g));
    same += a.at(g) == other.at(g);
  }
  EXPECT_LT(same, 30);
  const Sampler plain(10, 5, false);
  for (int64_t g = 0; g < 30; ++g) EXPECT_EQ(plain.at(g), g % 10);
  EXPECT_EQ(Sampler(1, 5, true).at(12), 0);
  EXPECT_THROW(Sampler(0, 5, true), DataError);
}

}  // namespace
}  // namespace euromodal
