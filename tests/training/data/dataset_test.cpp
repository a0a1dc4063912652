// dataset_test.cpp — shards and JSONL files as data sets: same content, same bytes, and every kind
// of broken input named.
#include "training/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/files.h"
#include "tests/support/temp.h"
#include "tests/training/data/corpus.h"
#include "training/data/shard_writer.h"

namespace euromodal {
namespace {

std::string media_text(const MediaSource& source) {
  return source.in_memory ? std::string(source.bytes) : read_bytes(source.name);
}

// A record without the names of its media, which differ between shards and JSONL.
std::string record_text(Record record) {
  for (Message& message : record.messages)
    for (Part& part : message.parts)
      if (part.is_media) part.media.uri = "-";
  return to_json(record).dump();
}

BuildResult build(const std::filesystem::path& records, const std::filesystem::path& output,
                  int64_t shard_bytes = 4000) {
  return build_shards({.records = records, .output = output, .shard_bytes = shard_bytes});
}

void replace_in(const std::filesystem::path& file, const std::string& from, const std::string& to) {
  std::string text = read_bytes(file);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  std::ofstream(file, std::ios::binary) << text;
}

TEST(ShardDatasetTest, HoldsTheSameRecordsAndMediaAsTheJsonl) {
  const TempDir dir;
  const auto records = make_corpus(dir, 23);
  const BuildResult built = build(records, dir / "shards");
  EXPECT_EQ(built.samples, 23);
  EXPECT_GT(built.shards, 3);
  EXPECT_EQ(built.bad_samples, 0);
  const auto jsonl = Dataset::open(records);
  const auto shards = Dataset::open(dir / "shards");
  ASSERT_EQ(jsonl->size(), 23);
  ASSERT_EQ(shards->size(), 23);
  for (int64_t i = 0; i < 23; ++i) {
    const Sample a = jsonl->get(i), b = shards->get(i);
    EXPECT_EQ(a.index, i);
    EXPECT_EQ(b.index, i);
    EXPECT_EQ(a.record.id, fmt::format("s{}", i));
    EXPECT_EQ(record_text(a.record), record_text(b.record));
    ASSERT_EQ(a.media.size(), i % 3 == 0 ? 2U : 1U);
    ASSERT_EQ(a.media.size(), b.media.size());
    for (size_t m = 0; m < a.media.size(); ++m) {
      EXPECT_TRUE(b.media[m].in_memory);
      EXPECT_EQ(media_text(a.media[m]), media_text(b.media[m]));
    }
    EXPECT_EQ(jsonl->cost(i), shards->cost(i));
    EXPECT_GE(shards->cost(i), 1.0);
  }
  EXPECT_EQ(shards->get(3).where.substr(0, 6), "shard-");
  EXPECT_EQ(jsonl->get(1).where, "corpus.jsonl:3");  // line 2 is empty
  EXPECT_THAT(shards->get(22).media[0].name, testing::EndsWith(".tar:000000022.0.jpg"));
  EXPECT_THROW(shards->get(23), DataError);
  EXPECT_THROW(jsonl->get(-1), DataError);
}

TEST(ShardDatasetTest, BuildingTwiceGivesIdenticalBytes) {
  const TempDir dir;
  const auto records = make_corpus(dir, 9);
  build(records, dir / "a");
  build(records, dir / "b");
  int64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir / "a")) {
    ++files;
    EXPECT_EQ(read_bytes(entry.path()), read_bytes(dir / "b" / entry.path().filename()));
  }
  EXPECT_GE(files, 3);
  const std::string first = Dataset::open(dir / "a")->fingerprint();
  EXPECT_EQ(first, Dataset::open(dir / "b" / "index.json")->fingerprint());
  dir.write("media/p3.JPG", "other picture");
  build(records, dir / "b");  // replaces the older folder of shards
  EXPECT_NE(first, Dataset::open(dir / "b")->fingerprint());
}

TEST(ShardDatasetTest, FileThatARecordNamesTwiceIsStoredOnce) {
  const TempDir dir;
  dir.write("a.png", "picture");
  const auto records = dir.write(
      "r.jsonl",
      R"({"id": "x", "messages": [{"role": "user", "parts": [{"kind": "image", "uri": "a.png"}, {"kind": "image", "uri": "a.png"}]}]})");
  build(records, dir / "out");
  const auto data = Dataset::open(dir / "out");
  const Sample sample = data->get(0);
  ASSERT_EQ(sample.media.size(), 2U);
  EXPECT_EQ(sample.media[0].bytes, "picture");
  EXPECT_EQ(sample.media[0].bytes.data(), sample.media[1].bytes.data());
}

TEST(ShardBuildTest, BadRecordsAreNamedAndNothingIsWritten) {
  const TempDir dir;
  make_corpus(dir, 3);
  std::filesystem::remove(dir / "media/p1.JPG");
  dir.write("media/p2.JPG", "");
  EXPECT_TRUE(
      (throws_with<DataError>([&] { build(dir / "corpus.jsonl", dir / "out"); },
                              {"2 of 3 records are bad, nothing was written", "corpus.jsonl:3",
                               "media/p1.JPG", "corpus.jsonl:4", "empty", "media/p2.JPG"})));
  EXPECT_FALSE(std::filesystem::exists(dir / "out"));
  dir.write("broken.jsonl", "{\"id\": \n");
  EXPECT_TRUE((throws_with<DataError>([&] { build(dir / "broken.jsonl", dir / "out"); },
                                      {"broken.jsonl:1"})));
  dir.write("empty.jsonl", "\n\n");
  EXPECT_TRUE((throws_with<DataError>([&] { build(dir / "empty.jsonl", dir / "out"); },
                                      {"empty.jsonl: no records"})));
  EXPECT_TRUE(
      (throws_with<DataError>([&] { build(dir / "none.jsonl", dir / "out"); }, {"none.jsonl"})));
  EXPECT_FALSE(std::filesystem::exists(dir / "out"));
}

TEST(ShardBuildTest, RefusesToReplaceAForeignFolder) {
  const TempDir dir;
  const auto records = make_corpus(dir, 2);
  dir.write("precious/thesis.txt", "years of work");
  EXPECT_TRUE((throws_with<UsageError>([&] { build(records, dir / "precious"); },
                                       {"precious", "is no folder of shards"})));
  EXPECT_EQ(read_bytes(dir / "precious/thesis.txt"), "years of work");
}

class BrokenShardTest : public testing::Test {
 protected:
  void SetUp() override { build(make_corpus(dir_, 10), dir_ / "s"); }
  std::filesystem::path shard(int64_t i) { return dir_ / fmt::format("s/shard-{:06}.tar", i); }
  TempDir dir_;
};

TEST_F(BrokenShardTest, MissingShardIsNamed) {
  std::filesystem::remove(shard(1));
  EXPECT_TRUE((throws_with<DataError>([&] { Dataset::open(dir_ / "s"); },
                                      {"shard-000001.tar: missing shard"})));
}

TEST_F(BrokenShardTest, TruncatedShardIsNamed) {
  std::filesystem::resize_file(shard(0), std::filesystem::file_size(shard(0)) - 512);
  EXPECT_TRUE((throws_with<DataError>([&] { Dataset::open(dir_ / "s"); },
                                      {"shard-000000.tar: truncated shard", "expected"})));
}

TEST_F(BrokenShardTest, TruncationAfterOpeningIsNamed) {
  const auto data = Dataset::open(dir_ / "s");
  std::filesystem::resize_file(shard(0), 1024);
  EXPECT_TRUE((throws_with<DataError>([&] { data->get(0); }, {"shard-000000.tar: truncated"})));
}

TEST_F(BrokenShardTest, ChangedBytesOfTheSameSizeAreNoticed) {
  std::string bytes = read_bytes(shard(0));
  const size_t at = bytes.find(corpus_bytes(1, 701));
  ASSERT_NE(at, std::string::npos);
  bytes[at + 350] ^= 1;
  std::ofstream(shard(0), std::ios::binary) << bytes;
  const auto data = Dataset::open(dir_ / "s");
  EXPECT_NO_THROW(data->get(0));
  EXPECT_TRUE((throws_with<DataError>([&] { data->get(1); },
                                      {"shard-000000.tar", "000000001", "changed", "data index"})));
  EXPECT_EQ(index_shards(dir_ / "s").samples, 10);
  EXPECT_NO_THROW(Dataset::open(dir_ / "s")->get(1));
}

TEST_F(BrokenShardTest, TruncatedTarCannotBeIndexed) {
  const auto whole = std::filesystem::file_size(shard(0));
  for (const uint64_t size : {uint64_t{100}, uint64_t{700}, uint64_t{1200}, whole / 2 + 300}) {
    std::filesystem::resize_file(shard(0), size);
    EXPECT_TRUE((throws_with<DataError>([&] { index_shards(dir_ / "s"); }, {"shard-000000.tar"})))
        << size;
  }
  std::ofstream(shard(0)) << std::string(5000, 'x');
  EXPECT_TRUE((throws_with<DataError>([&] { index_shards(dir_ / "s"); }, {"shard-000000.tar"})));
}

TEST_F(BrokenShardTest, BrokenIndexIsNamed) {
  const auto index = dir_ / "s/index.json";
  const std::string good = read_bytes(index);
  const std::vector<std::pair<std::string, std::string>> faults = {
      {"{\"format\"", "\"format\""},
      {"euromodal-shards", "other"},
      {"\"version\": 1", "\"version\": 2"},
      {"shard-000000.tar", "../shard-000000.tar"},
      {"shard-000000.tar", "gone.tar"},
      {"\"bytes\":", "\"size\":"},
      {"[0,\"000000000\"", "[9,\"000000000\""},
      {"[0,\"000000000\"", "[-1,\"000000000\""},
      {"[0,\"000000000\"", "[0,7"},
      {".0.jpg\",", ".0.jpg\",9223372036854775807,1],[\".9\","},
      {".0.jpg\",", ".0.jpg\",18446744073709551615,1],[\".9\","},
      {".0.jpg\",", ".0.jpg\",1.5,1],[\".9\","},
      {"\"samples\": [", "\"samples\": ["},  // checked below: no samples
  };
  for (size_t i = 0; i + 1 < faults.size(); ++i) {
    std::ofstream(index, std::ios::binary) << good;
    replace_in(index, faults[i].first, faults[i].second);
    EXPECT_THROW(Dataset::open(index), DataError) << faults[i].second;
  }
  std::ofstream(index, std::ios::binary)
      << good.substr(0, good.find("\"samples\": [")) + "\"samples\": []}";
  EXPECT_TRUE((throws_with<DataError>([&] { Dataset::open(index); }, {"no samples"})));
}

TEST(IndexShardsTest, ForeignWebDatasetWithFoldersAndBadSamples) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "w");
  const std::string record =
      R"({"id": "a", "messages": [{"role": "user", "parts": [{"kind": "image", "uri": "one.jpg"}]}]})";
  ShardWriter tar(dir / "w/train.tar");
  tar.add("x.y/one.jpg", "jpg bytes");
  tar.add("x.y/one.json", record);
  tar.add("x.y/two.jpg", "no record");
  tar.add("x.y/three.json", "{broken");
  tar.add("x.y/four.json", record);  // its picture is not in the shard
  tar.add(std::string(150, 'n') + ".json",
          R"({"id": "long", "messages": [{"role": "user", "parts": ["x"]}]})");  // pax header
  tar.close();
  const BuildResult result = index_shards(dir / "w");
  EXPECT_EQ(result.samples, 2);
  EXPECT_EQ(result.bad_samples, 3);
  const auto data = Dataset::open(dir / "w");
  const Sample sample = data->get(0);
  EXPECT_EQ(sample.where, "train.tar:x.y/one");
  EXPECT_EQ(sample.media.at(0).bytes, "jpg bytes");
  EXPECT_EQ(data->get(1).record.id, "long");
}

TEST(IndexShardsTest, FoldersWithoutShardsAreErrors) {
  const TempDir dir;
  EXPECT_TRUE((throws_with<DataError>([&] { index_shards(dir.path()); }, {"no .tar files"})));
  EXPECT_TRUE((throws_with<DataError>([&] { index_shards(dir / "none"); }, {"none"})));
  EXPECT_TRUE((
      throws_with<DataError>([&] { Dataset::open(dir.path()); }, {"no index.json", "data index"})));
  EXPECT_TRUE((throws_with<DataError>([&] { Dataset::open(dir / "none.jsonl"); },
                                      {"none.jsonl: no such file"})));
  dir.write("a.txt", "x");
  EXPECT_TRUE((throws_with<DataError>([&] { Dataset::open(dir / "a.txt"); }, {".jsonl"})));
}

TEST(JsonlDatasetTest, BadLinesAndMissingMediaNameTheLine) {
  const TempDir dir;
  const auto file = dir.write(
      "d.jsonl",
      "{\"id\": \"a\", \"messages\": []}\n\n{\"id\": 5}\n"
      R"({"id": "c", "messages": [{"role": "user", "parts": [{"kind": "image", "uri": "no.jpg"}]}]})"
      "\nnot json");
  const auto data = Dataset::open(file);
  ASSERT_EQ(data->size(), 4);
  EXPECT_TRUE((throws_with<DataError>([&] { data->get(1); }, {"d.jsonl:3"})));
  EXPECT_TRUE((throws_with<DataError>([&] { data->get(2); }, {"d.jsonl:4", "no.jpg", "missing"})));
  EXPECT_TRUE((throws_with<DataError>([&] { data->get(3); }, {"d.jsonl:5"})));
  for (int64_t i = 0; i < 4; ++i) EXPECT_GE(data->cost(i), 1.0);
}

}  // namespace
}  // namespace euromodal
