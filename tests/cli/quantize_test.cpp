// quantize_test.cpp — `euromodal quantize`, `score --reference` and `bench text` from outside.
#include <filesystem>

#include <gtest/gtest.h>

#include "core/json.h"
#include "tests/cli/tiny_text_model.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

using QuantizeTest = TinyTextModelTest;

TEST_F(QuantizeTest, FolderGeneratesWhatPackingInMemoryDoes) {
  for (const std::string form : {"int8", "int4-g32-asym"}) {
    const std::string out = dir_ / form;
    const ProgramResult made =
        run_program({"quantize", "--model", dir_.path(), "--output", out, "--weights", form});
    ASSERT_EQ(made.code, 0) << made.err;
    const ProgramResult folder = run_program({"generate", "--model", out, "--prompt", "Hello",
                                              "--max-new-tokens", "12", "--ignore-eos", "--json"}),
                        memory = generate({"--prompt", "Hello", "--max-new-tokens", "12",
                                           "--ignore-eos", "--json", "--weights", form});
    ASSERT_EQ(folder.code, 0) << folder.err;
    ASSERT_EQ(memory.code, 0) << memory.err;
    EXPECT_EQ(parse_json(folder.out, "stdout")["tokens"],
              parse_json(memory.out, "stdout")["tokens"]);
    EXPECT_TRUE(fails_clearly(
        run_program({"generate", "--model", out, "--prompt", "Hello", "--weights", "int8-g32"}), 1,
        {form, "int8-g32"}));
  }
}

TEST_F(QuantizeTest, ScoreSaysHowFarItIsFromAnother) {
  const std::string text = "The bridge is closed, the river is high.";
  const auto compare = [&](const std::string& weights) {
    const ProgramResult r =
        run_program({"score", "--model", dir_.path(), "--reference", dir_.path(), "--text", text,
                     "--json", "--weights", weights});
    EXPECT_EQ(r.code, 0) << r.err;
    return parse_json(r.out, "stdout");
  };
  const Json eight = compare("int8-g32"), four = compare("int4-g32");
  EXPECT_GT(eight["mean_kl"].get<double>(), 0.0);
  EXPECT_LT(eight["mean_kl"].get<double>(), 0.01);
  EXPECT_GT(four["mean_kl"].get<double>(), eight["mean_kl"].get<double>());
  EXPECT_GE(eight["top1_agreement"].get<double>(), 0.9);
  EXPECT_NEAR(eight["perplexity"].get<double>() / eight["reference_perplexity"].get<double>(), 1.0,
              0.05);
}

TEST_F(QuantizeTest, BenchMeasuresEveryCase) {
  const std::string json = dir_ / "bench.json";
  const ProgramResult r =
      run_program({"bench", "text", "--model", dir_.path(), "--dtype", "bfloat16",
                   "--prompt-tokens", "8", "--new-tokens", "4", "--depth", "0,16", "--batch", "1,2",
                   "--repetitions", "2", "--output", json});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json out = read_json(json);
  ASSERT_EQ(out["cases"].size(), 6U);
  for (const Json& one : out["cases"]) {
    EXPECT_GT(one["tokens_per_s"].get<double>(), 0.0);
    EXPECT_GT(one["share_of_limit"].get<double>(), 0.0);
    EXPECT_EQ(one["share_of_limit_samples"].size(), 2U);
    EXPECT_NE(r.out.find(one["name"].get<std::string>()), std::string::npos);
  }
  EXPECT_GT(out["read_bytes_per_s"].get<double>(), 0.0);
}

TEST_F(QuantizeTest, WrongWordsAreNamed) {
  const std::string out = dir_ / "out";
  EXPECT_TRUE(fails_clearly(
      run_program({"quantize", "--model", dir_.path(), "--output", out, "--weights", "int3"}), 2,
      {"--weights", "int3"}));
  EXPECT_TRUE(fails_clearly(run_program({"quantize", "--model", dir_.path(), "--output",
                                         dir_.path(), "--weights", "int8"}),
                            2, {"--output", "there already"}));
  EXPECT_TRUE(fails_clearly(
      run_program({"quantize", "--model", dir_.path(), "--output", out, "--weights", "bfloat16"}),
      2, {"bfloat16"}));
  EXPECT_FALSE(fs::exists(out));
  EXPECT_TRUE(fails_clearly(run_program({"bench", "sound", "--model", dir_.path()}), 2, {"sound"}));
  EXPECT_TRUE(fails_clearly(run_program({"bench", "text", "--model", dir_.path(), "--depth", "x"}),
                            2, {"--depth", "x"}));
}

}  // namespace
}  // namespace euromodal
