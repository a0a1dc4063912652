// cache_options_test.cpp — from outside: how keys and values are kept, prompts in pieces.
#include <gtest/gtest.h>

#include "core/json.h"
#include "tests/cli/tiny_text_model.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class CacheOptionsTest : public TinyTextModelTest {
 protected:
  Json answer(std::vector<std::string> words) const {
    words.push_back("--json");
    const ProgramResult result = generate(words);
    EXPECT_EQ(result.code, 0) << result.err;
    return parse_json(result.out, "stdout");
  }
};

TEST_F(CacheOptionsTest, Int8IsAWordOfEveryCommandThatAnswers) {
  const std::vector<std::string> words = {"--prompt", "Hello", "--max-new-tokens", "8"};
  std::vector<std::string> codes = words;
  codes.insert(codes.end(), {"--kv-cache", "int8"});
  const Json plain = answer(words), int8 = answer(codes);
  EXPECT_EQ(int8["tokens"], plain["tokens"]);  // holds for this prompt
  const fs::path input = dir_.write("in.jsonl", "{\"prompt\": \"Hello\"}\n"), output = dir_ / "out";
  const ProgramResult batch = generate({"--batch", input, "--output", output, "--max-new-tokens",
                                        "8", "--kv-cache", "int8", "--prefill-chunk", "2"});
  ASSERT_EQ(batch.code, 0) << batch.err;
  EXPECT_EQ(parse_json(read_bytes(output), "out")["tokens"], int8["tokens"]);
  const ProgramResult chat =
      run_program({"chat", "--model", dir_.path().string(), "--max-new-tokens", "4", "--kv-cache",
                   "int8", "--prefill-chunk", "5"},
                  "hi\n");
  EXPECT_EQ(chat.code, 0) << chat.err;
  EXPECT_GT(chat.out.size(), 1U);
  const ProgramResult bench =
      run_program({"bench", "text", "--model", dir_.path().string(), "--prompt-tokens", "8",
                   "--new-tokens", "2", "--repetitions", "1", "--dtype", "float32", "--kv-cache",
                   "int8", "--prefill-chunk", "3"});
  ASSERT_EQ(bench.code, 0) << bench.err;
  EXPECT_NE(bench.out.find("keys and values int8"), std::string::npos) << bench.out;
}

TEST_F(CacheOptionsTest, PiecesOfAPromptGiveTheSameAnswer) {
  const std::vector<std::string> words = {"--prompt", "The bridge is closed.", "--max-new-tokens",
                                          "12"};
  const Json whole = answer(words);
  for (const char* chunk : {"1", "7", "512"}) {
    std::vector<std::string> pieces = words;
    pieces.insert(pieces.end(), {"--prefill-chunk", chunk});
    EXPECT_EQ(answer(pieces)["tokens"], whole["tokens"]) << chunk;
  }
}

TEST_F(CacheOptionsTest, WrongWordsAreNamed) {
  const auto with = [&](const char* option, const char* word) {
    return generate({"--prompt", "a", option, word});
  };
  EXPECT_TRUE(fails_clearly(with("--kv-cache", "int3"), 2, {"--kv-cache", "int3", "int8"}));
  EXPECT_TRUE(fails_clearly(with("--kv-cache", "float8"), 2, {"float8", "--device cuda", "int8"}));
  EXPECT_TRUE(fails_clearly(with("--prefill-chunk", "0"), 2, {"--prefill-chunk"}));
  EXPECT_TRUE(fails_clearly(
      run_program({"bench", "text", "--model", dir_.path().string(), "--kv-cache", "x"}), 2,
      {"--kv-cache", "x"}));
}

}  // namespace
}  // namespace euromodal
