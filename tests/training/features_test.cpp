// features_test.cpp — `data encode`: training on features that were computed before is training on
// the media, bit for bit; resume of a conversion; features of another encoder are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/log.h"
#include "multimodal/model.h"
#include "tests/support/program.h"
#include "tests/training/tiny_world.h"
#include "training/data/encode_dataset.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class FeaturesTest : public testing::Test {
 protected:
  FeaturesTest() : world_(dir_) {
    set_log_level(LogLevel::kError);
    world_.models();
  }
  ~FeaturesTest() override { set_log_level(LogLevel::kInfo); }

  ProgramResult encode(const std::string& output, std::vector<std::string> more) const {
    std::vector<std::string> words = {"data",      "encode",
                                      "--data",    world_.path("mixed.jsonl").string(),
                                      "--output",  world_.path(output).string(),
                                      "--threads", "1"};  // as run.threads: the same bits
    words.insert(words.end(), more.begin(), more.end());
    return run_program(words);
  }
  std::string train(const std::string& run, const std::string& data,
                    std::vector<std::string> more = {}) const {
    // One part: parts are balanced by what media and features weigh in bytes, which differs.
    more.insert(more.end(),
                {fmt::format("data=[{{path: {}}}]", world_.path(data).string()), "batch.parts=1"});
    world_.run(world_.config("adapters", run), more);
    return world_.state(run);
  }
  std::string encoder(const char* objective) const {
    return (world_.path(objective) / "model").string();
  }

  TempDir dir_;
  TinyWorld world_;
};

TEST_F(FeaturesTest, TrainingOnFeaturesIsTrainingOnMediaBitForBit) {
  const std::string media = train("from_media", "mixed.jsonl");
  const ProgramResult both = encode(
      "both", {"--encoder", encoder("pictures"), encoder("sounds"), "--shard-samples", "30"});
  ASSERT_EQ(both.code, 0) << both.err;
  EXPECT_THAT(both.out, testing::HasSubstr("72 samples in 3 shards"));
  EXPECT_EQ(train("features", "both"), media);
  // Media of one kind, features of the other, in one data set.
  ASSERT_EQ(encode("sound", {"--encoder", encoder("sounds")}).code, 0);
  EXPECT_EQ(train("mixture", "sound"), media);
  // In 16 bits it is near, not equal.
  ASSERT_EQ(
      encode("half", {"--encoder", encoder("pictures"), encoder("sounds"), "--store", "bfloat16"})
          .code,
      0);
  EXPECT_NE(train("half_run", "half"), media);
  // By the coupled model itself; then the media may be gone.
  const ProgramResult whole =
      encode("whole", {"--model", (world_.path("from_media") / "model").string()});
  ASSERT_EQ(whole.code, 0) << whole.err;
  fs::remove_all(world_.path("media"));
  EXPECT_EQ(train("model", "whole"), media);
  EXPECT_EQ(run_program({"data", "check", world_.path("whole").string()}).code, 0);
}

TEST_F(FeaturesTest, AConversionGoesOnWhereItWasStopped) {
  const auto data = Dataset::open(world_.path("mixed.jsonl"));
  const auto pictures = load_encoder(encoder("pictures"));
  const FeatureSource source{pictures.get(), {encoder_identity(*pictures), "last"}};
  EncodeOptions options;
  options.output = world_.path("shards");
  options.shard_samples = 20;
  EXPECT_EQ(encode_dataset(*data, {source}, options).kept_shards, 0);
  const auto bytes = [&](int shard) {
    return read_bytes(world_.path("shards") / fmt::format("shard-{:06}.tar", shard));
  };
  const std::string third = bytes(2), index = read_bytes(world_.path("shards") / "index.json");
  fs::remove(world_.path("shards") / "shard-000002.tar");
  fs::remove(world_.path("shards") / "index.json");
  const EncodeResult again = encode_dataset(*data, {source}, options);
  EXPECT_EQ(again.kept_shards, 3);
  EXPECT_EQ(again.samples, 72);
  EXPECT_EQ(bytes(2), third);
  EXPECT_EQ(read_bytes(world_.path("shards") / "index.json"), index);

  options.shard_samples = 30;
  EXPECT_TRUE(throws_with<UsageError>([&] { encode_dataset(*data, {source}, options); },
                                      {"shards", "other", "another folder"}));
  options.output = world_.path("media");
  EXPECT_TRUE(throws_with<UsageError>([&] { encode_dataset(*data, {source}, options); },
                                      {"media", "no folder of features"}));
}

TEST_F(FeaturesTest, BadSamplesAreCappedAndLeftOut) {
  dir_.write("media/3.ppm", "no picture");
  const std::vector<std::string> encoders = {"--encoder", encoder("pictures")};
  EXPECT_TRUE(fails_clearly(encode("bad", encoders), 1, {"3.ppm", "max_bad_samples"}));
  const ProgramResult tolerant =
      encode("bad", {"--encoder", encoder("pictures"), "--max-bad-samples", "2"});
  EXPECT_EQ(tolerant.code, 0) << tolerant.err;
  EXPECT_THAT(tolerant.out, testing::HasSubstr("71 samples"));
  EXPECT_THAT(tolerant.out, testing::HasSubstr("1 bad samples"));
}

TEST_F(FeaturesTest, FeaturesThatDoNotFitAreRefused) {
  ASSERT_EQ(encode("both", {"--encoder", encoder("pictures"), encoder("sounds")}).code, 0);
  const auto fails = [&](const std::string& run, const std::vector<std::string>& set,
                         std::initializer_list<std::string_view> words) {
    return throws_with<DataError>([&] { train(run, "both", set); }, words);
  };
  EXPECT_TRUE(
      fails("augmented", {"objective.augment={image: {noise: 0.1}}"}, {"cannot be augmented"}));
  EXPECT_TRUE(fails("trained", {"trainable=[\"adapter.*\", \"encoder.image.*norm*\"]"},
                    {"stored features", "encoder is trained"}));
  EXPECT_TRUE(fails("layer", {"objective.model.image.encoder.features=-2"}, {"'last'", "'-2'"}));
  // The pictures' encoder learns one step more: other weights.
  world_.run(world_.config("pictures", "other"), {"steps=7"});
  EXPECT_TRUE(fails("encoder", {"objective.model.image.encoder.model=" + encoder("other")},
                    {"another encoder", "data encode"}));
  EXPECT_TRUE(fails_clearly(encode("twice", {"--encoder", encoder("pictures"), encoder("other")}),
                            2, {"second"}));
}

}  // namespace
}  // namespace euromodal
