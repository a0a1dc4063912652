// inspect_test.cpp — `euromodal inspect` on what the repository holds and on what is nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "tests/support/program.h"

namespace euromodal {
namespace {

Json inspect(const std::string& path) {
  const ProgramResult result = run_program({"inspect", path, "--json"});
  EXPECT_EQ(result.code, 0) << result.err;
  return Json::parse(result.out, nullptr, /*allow_exceptions=*/false);
}

TEST(InspectTest, KnowsWhatItSees) {
  const std::string source = EM_SOURCE_DIR;
  const Json model = inspect(source + "/configs/nano/backbone");
  EXPECT_EQ(model["kind"], "text model");
  EXPECT_EQ(model["layers"], 4);
  EXPECT_GT(model["parameters"].get<int64_t>(), 1'000'000);
  EXPECT_EQ(inspect(source + "/configs/nano/tokenizer")["kind"], "tokenizer");
  const Json weights = inspect(source + "/tests/backbone/goldens/gqa6_tied.safetensors");
  EXPECT_EQ(weights["kind"], "safetensors");
  EXPECT_GT(weights["list"].size(), 10U);
  EXPECT_NE(inspect(source + "/configs/nano/adapters.yaml")["config"].get<std::string>().find(
                "next_token"),
            std::string::npos);
  EXPECT_EQ(inspect(source + "/configs/nano/image")["config"]["model_type"], "siglip_vision_model");
}

TEST(InspectTest, ReadsRecordsShardsAndCheckpoints) {
  TempDir dir;
  const auto records = dir.write(
      "r.jsonl",
      R"({"id": "a", "lang": "de", "messages": [{"role": "user", "parts": ["x"]}, {"role": "assistant", "parts": ["y"]}]})"
      "\n");
  EXPECT_EQ(inspect(records.string())["samples"], 1);
  ASSERT_EQ(run_program({"data", "build", "--records", records.string(), "--output",
                         (dir / "shards").string()})
                .code,
            0);
  EXPECT_EQ(inspect((dir / "shards").string())["samples"], 1);
  EXPECT_EQ(inspect((dir / "shards" / "shard-000000.tar").string())["endings"][".json"], 1);
}

TEST(InspectTest, TextIsForPeople) {
  const ProgramResult result = run_program(
      {"inspect", std::string(EM_SOURCE_DIR) + "/tests/backbone/goldens/gqa6_tied.safetensors"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, testing::HasSubstr("kind: safetensors"));
  EXPECT_THAT(result.out, testing::HasSubstr("weights.model.norm.weight"));
}

TEST(InspectTest, UnknownPathsAreErrors) {
  TempDir dir;
  EXPECT_TRUE(fails_clearly(run_program({"inspect", (dir / "absent").string()}), 2, {"absent"}));
  EXPECT_TRUE(fails_clearly(run_program({"inspect", dir.path().string()}), 2, {"config.json"}));
  const auto broken = dir.write("x.safetensors", "abc");
  EXPECT_TRUE(fails_clearly(run_program({"inspect", broken.string()}), 1, {"x.safetensors"}));
}

}  // namespace
}  // namespace euromodal
