// loader_test.cpp — what the loader hands out depends on (data, seed, step, B, P) alone: not on
// ranks, workers or restarts. Bad samples, failing workers, bounded memory, shutting down.
#include "training/data/loader.h"

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp.h"

namespace euromodal {
namespace {

// Samples that exist in memory only: id "sI", uneven costs.
class CountedDataset final : public Dataset {
 public:
  explicit CountedDataset(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  std::string name() const override { return "counted"; }
  std::string fingerprint() const override { return "counted"; }
  double cost(int64_t index) const override { return 1.0 + static_cast<double>(index * 37 % 101); }
  Sample get(int64_t index) const override {
    Sample sample;
    sample.index = index;
    sample.where = fmt::format("counted:{}", index);
    sample.record.id = fmt::format("s{}", index);
    return sample;
  }

 private:
  int64_t size_;
};

// As many tokens as the cost says; the first is the sample's index, the second its position.
Example plain_example(const Sample& sample, int64_t global) {
  Example example;
  example.id = sample.record.id;
  example.plan.ids.assign(2 + sample.index * 37 % 101, 7);
  example.plan.ids[0] = sample.index;
  example.plan.ids[1] = global;
  example.plan.labels.assign(example.plan.ids.size(), -100);
  return example;
}

LoaderOptions loader_options(int64_t samples, int64_t parts) {
  LoaderOptions options;
  options.batch_samples = samples;
  options.parts = parts;
  options.seed = 3;
  return options;
}

using Parts = std::map<int64_t, std::vector<std::vector<int64_t>>>;  // part -> batches -> ids_T

Parts contents(const std::vector<PartBatches>& parts) {
  Parts out;
  for (const PartBatches& part : parts) {
    auto& batches = out[part.part];
    for (const Batch& batch : part.batches) {
      const at::Tensor ids_T = batch.ids_T.contiguous();
      const auto* data = ids_T.const_data_ptr<int64_t>();
      batches.emplace_back(data, data + ids_T.numel());
    }
  }
  return out;
}

std::unique_ptr<Loader> make_loader(int64_t size, const LoaderOptions& options,
                                    int64_t first_step = 0,
                                    const Loader::Prepare& prepare = plain_example) {
  return std::make_unique<Loader>(std::make_shared<CountedDataset>(size), options, prepare,
                                  first_step);
}

TEST(LoaderTest, ContentDoesNotDependOnRanksOrWorkers) {
  constexpr int64_t kSteps = 7;  // 7 x 12 samples of 40: three epochs
  std::vector<Parts> expected;
  {
    auto options = loader_options(12, 4);
    options.workers = 0;
    const auto loader = make_loader(40, options);
    for (int64_t s = 0; s < kSteps; ++s) expected.push_back(contents(loader->next()));
  }
  for (const Parts& step : expected) {
    EXPECT_EQ(step.size(), 4U);
    for (const auto& [part, batches] : step) EXPECT_EQ(batches.size(), 1U);
  }
  for (const int world : {1, 2, 3, 5}) {
    for (const int64_t workers : {0, 1, 3}) {
      std::vector<Parts> got(kSteps);
      for (int rank = 0; rank < world; ++rank) {
        auto options = loader_options(12, 4);
        options.rank = rank;
        options.world = world;
        options.workers = workers;
        const auto loader = make_loader(40, options);
        for (int64_t s = 0; s < kSteps; ++s) {
          for (const auto& [part, batches] : contents(loader->next())) {
            EXPECT_EQ(part % world, rank);
            got[s][part] = batches;
          }
        }
      }
      EXPECT_EQ(got, expected) << world << " ranks, " << workers << " workers";
    }
  }
}

TEST(LoaderTest, ABudgetOfTokensDependsOnDataSeedAndStepAlone) {
  constexpr int64_t kSteps = 9;
  const auto make = [](int64_t first, int rank, int world, int64_t workers) {
    auto options = loader_options(0, 3);
    options.batch_tokens = 300;  // of 40 samples with about 50 rows each: seven steps an epoch
    options.max_tokens = 120;
    options.rank = rank;
    options.world = world;
    options.workers = workers;
    return make_loader(40, options, first);
  };
  std::vector<Parts> expected;
  const auto whole = make(0, 0, 1, 0);
  for (int64_t s = 0; s < kSteps; ++s) {
    expected.push_back(contents(whole->next()));
    int64_t rows = 0;
    for (const auto& [part, batches] : expected.back()) {
      for (const auto& ids : batches) {
        EXPECT_LE(ids.size(), 120U);
        rows += static_cast<int64_t>(ids.size());
      }
    }
    EXPECT_LE(rows, 300 + 103 + 20);  // the budget, one sample, and what examples have beyond costs
  }
  EXPECT_NE(expected[0], expected[7]);
  for (const auto& [first, world, workers] :
       std::vector<std::array<int64_t, 3>>{{0, 1, 3}, {0, 2, 1}, {0, 3, 0}, {4, 1, 1}, {8, 2, 0}}) {
    std::vector<Parts> got(expected.size());
    for (int rank = 0; rank < world; ++rank) {
      const auto loader = make(first, rank, static_cast<int>(world), workers);
      for (int64_t s = first; s < kSteps; ++s) {
        for (const auto& [part, batches] : contents(loader->next())) got[s][part] = batches;
      }
    }
    for (int64_t s = first; s < kSteps; ++s)
      EXPECT_EQ(got[s], expected[s]) << "step " << s << " from " << first << ", " << world
                                     << " ranks, " << workers << " workers";
  }
}

TEST(LoaderTest, EveryEpochSeesEverySampleOnce) {
  auto options = loader_options(8, 2);
  options.pack = false;
  const auto loader = make_loader(40, options);
  std::multiset<int64_t> seen;
  std::set<int64_t> positions;
  for (int64_t step = 0; step < 10; ++step) {  // two epochs
    for (const auto& part : loader->next()) {
      int64_t last = -1;
      for (const Batch& batch : part.batches) {
        ASSERT_EQ(batch.examples.size(), 1U);
        ASSERT_EQ(batch.rows.count(), 1);
        EXPECT_EQ(batch.examples[0].index, batch.ids_T[0].item<int64_t>());
        const auto position = batch.ids_T[1].item<int64_t>();
        EXPECT_GT(position, last);  // ascending inside a part
        EXPECT_EQ(position / 8, step);
        last = position;
        positions.insert(position);
        seen.insert(batch.examples[0].index);
      }
    }
  }
  EXPECT_EQ(positions.size(), 80U);
  for (int64_t i = 0; i < 40; ++i) EXPECT_EQ(seen.count(i), 2U) << i;
}

TEST(LoaderTest, ResumesExactlyFromEveryStep) {
  constexpr int64_t kSteps = 9;
  const auto options = loader_options(6, 3);
  std::vector<Parts> expected;
  const auto whole = make_loader(25, options);
  for (int64_t s = 0; s < kSteps; ++s) expected.push_back(contents(whole->next()));
  for (int64_t first = 0; first < kSteps; ++first) {
    const auto loader = make_loader(25, options, first);
    for (int64_t s = first; s < kSteps; ++s) EXPECT_EQ(contents(loader->next()), expected[s]);
  }
}

TEST(LoaderTest, UnpackedAndLimitedBatchesHoldTheSameSamplesInTheSameOrder) {
  std::vector<std::vector<int64_t>> rows;  // per variant: all ids of step 0, part by part
  for (const int variant : {0, 1, 2}) {
    auto options = loader_options(30, 3);
    options.pack = variant != 1;
    options.max_tokens = variant == 2 ? 120 : 0;
    const auto loader = make_loader(100, options);
    std::vector<int64_t> all;
    for (const auto& [part, batches] : contents(loader->next())) {
      EXPECT_EQ(batches.size() > 1, variant != 0);
      for (const auto& batch : batches) {
        EXPECT_TRUE(variant != 2 || batch.size() <= 120U);
        all.insert(all.end(), batch.begin(), batch.end());
      }
    }
    rows.push_back(all);
  }
  EXPECT_EQ(rows[0], rows[1]);
  EXPECT_EQ(rows[0], rows[2]);
}

TEST(LoaderTest, PartsHaveEvenCosts) {
  const auto loader = make_loader(400, loader_options(64, 4));
  for (int step = 0; step < 5; ++step) {
    std::vector<size_t> sizes;
    for (const auto& [part, batches] : contents(loader->next())) sizes.push_back(batches[0].size());
    const auto [least, most] = std::minmax_element(sizes.begin(), sizes.end());
    EXPECT_LT(static_cast<double>(*most - *least), 0.05 * static_cast<double>(*most));
  }
}

Example bad_every_tenth(const Sample& sample, int64_t global) {
  check<DataError>(sample.index % 10 != 3, "picture is broken");
  return plain_example(sample, global);
}

TEST(LoaderTest, BadSamplesAreLeftOutCountedAndTheSameOnAllRanks) {
  Parts together[2];
  for (const int world : {1, 2}) {
    int64_t bad = 0;
    for (int rank = 0; rank < world; ++rank) {
      auto options = loader_options(20, 4);
      options.rank = rank;
      options.world = world;
      options.max_bad_samples = 2;
      const auto loader = make_loader(20, options, 0, bad_every_tenth);
      for (const auto& [part, batches] : contents(loader->next()))
        together[world - 1][part] = batches;
      bad += loader->figures().bad_samples;
    }
    EXPECT_EQ(bad, 2);
  }
  EXPECT_EQ(together[0], together[1]);
}

TEST(LoaderTest, BadSamplesBeyondTheCapEndTheRunAndAreNamed) {
  for (const int64_t workers : {0, 2}) {
    auto options = loader_options(20, 2);
    options.workers = workers;
    options.max_bad_samples = 3;  // the fourth comes in the second epoch
    const auto loader = make_loader(20, options, 0, bad_every_tenth);
    loader->next();
    EXPECT_EQ(loader->figures().bad_samples, 2);
    const auto second = [&] { loader->next(); };
    EXPECT_TRUE((throws_with<DataError>(
        second, {"more than max_bad_samples = 3", "counted:", "id s", "picture is broken"})));
    EXPECT_TRUE((throws_with<DataError>(second, {"max_bad_samples"})));  // and stays broken
  }
}

TEST(LoaderTest, PartOfBadSamplesOnlyIsEmpty) {
  auto options = loader_options(4, 4);
  options.max_bad_samples = 100;
  const auto loader = make_loader(
      10, options, 0, [](const Sample&, int64_t) -> Example { throw DataError("all bad"); });
  const auto parts = loader->next();
  ASSERT_EQ(parts.size(), 4U);
  for (const auto& part : parts) EXPECT_TRUE(part.batches.empty());
}

TEST(LoaderTest, OtherExceptionsOfWorkersComeOutAtTheirStep) {
  for (const int64_t workers : {0, 1, 3}) {
    auto options = loader_options(5, 1);
    options.workers = workers;
    options.shuffle = false;
    const auto loader = make_loader(20, options, 0, [](const Sample& sample, int64_t global) {
      check<CheckpointError>(global != 12, "the tokenizer is gone");
      return plain_example(sample, global);
    });
    EXPECT_NO_THROW(loader->next());
    EXPECT_NO_THROW(loader->next());
    EXPECT_TRUE((throws_with<CheckpointError>([&] { loader->next(); }, {"the tokenizer is gone"})));
    EXPECT_TRUE((throws_with<CheckpointError>([&] { loader->next(); }, {"the tokenizer is gone"})));
  }
}

TEST(LoaderTest, WorkersStayAtMostPrefetchStepsAhead) {
  std::atomic<int64_t> prepared{0};
  auto options = loader_options(4, 2);
  options.workers = 3;
  options.prefetch_steps = 2;
  const auto loader = make_loader(50, options, 0, [&](const Sample& sample, int64_t global) {
    ++prepared;
    return plain_example(sample, global);
  });
  for (int64_t step = 0; step < 4; ++step) {
    for (int wait = 0; wait < 500 && prepared < (step + 2) * 4; ++wait)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(prepared, (step + 2) * 4);  // exactly two steps wait, however long the trainer takes
    loader->next();
  }
}

TEST(LoaderTest, DestructorEndsWhileWorkersAreBusy) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) {
    auto options = loader_options(100, 2);
    options.workers = 4;
    const auto loader = make_loader(500, options, 0, [](const Sample& sample, int64_t global) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return plain_example(sample, global);
    });
    if (i % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(LoaderTest, StallIsMeasured) {
  auto options = loader_options(2, 1);
  options.workers = 0;
  const auto loader = make_loader(10, options, 0, [](const Sample& sample, int64_t global) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return plain_example(sample, global);
  });
  loader->next();
  EXPECT_GE(loader->figures().stall_s, 0.02);
  EXPECT_EQ(loader->figures().steps, 1);
}

TEST(LoaderTest, StepsThatWaitAreCounted) {
  auto options = loader_options(2, 1);
  options.prefetch_steps = 3;
  std::atomic<int64_t> prepared{0};
  const auto loader = make_loader(40, options, 0, [&](const Sample& sample, int64_t global) {
    ++prepared;
    return plain_example(sample, global);
  });
  while (prepared < 6) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the last step is packed
  loader->next();
  EXPECT_EQ(loader->figures().ready_steps, 3.0);
}

TEST(LoaderTest, RankWithoutPartsGetsNone) {
  auto options = loader_options(4, 2);
  options.rank = 2;
  options.world = 3;
  const auto loader = make_loader(10, options);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(loader->next().empty());
}

TEST(LoaderTest, OptionsThatMakeNoSenseAreConfigErrors) {
  const auto fails = [](auto&& change) {
    auto options = loader_options(4, 2);
    change(options);
    EXPECT_THROW(make_loader(10, options), ConfigError);
  };
  fails([](LoaderOptions& o) { o.batch_samples = 0; });
  fails([](LoaderOptions& o) { o.batch_tokens = 500; });  // beside batch_samples
  fails([](LoaderOptions& o) { o.parts = 5; });
  fails([](LoaderOptions& o) { o.parts = 0; });
  fails([](LoaderOptions& o) { o.workers = -1; });
  fails([](LoaderOptions& o) { o.prefetch_steps = 0; });
  fails([](LoaderOptions& o) { o.max_tokens = -1; });
  fails([](LoaderOptions& o) { o.rank = 1; });
  EXPECT_THROW(make_loader(10, loader_options(4, 2), -1), ConfigError);
}

}  // namespace
}  // namespace euromodal
