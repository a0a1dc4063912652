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

TEST_F(CacheOptionsTest, TheSecondTurnOfAChatReadsOnlyWhatIsNew) {
  const auto talk = [&](std::vector<std::string> words, const std::string& lines) {
    words.insert(words.begin(), {"chat", "--model", dir_.path().string(), "--max-new-tokens", "3",
                                 "--timings", "--ignore-eos"});
    return run_program(words, lines);
  };
  const auto figures = [](const ProgramResult& result, const std::string& name) {
    std::vector<int64_t> out;
    for (size_t at = result.err.find(name + "="); at != std::string::npos;
         at = result.err.find(name + "=", at + 1))
      out.push_back(std::stoll(result.err.substr(at + name.size() + 1)));
    return out;
  };
  const ProgramResult kept = talk({}, "hi\nyo\n"), fresh = talk({"--no-prefix-reuse"}, "hi\nyo\n");
  ASSERT_EQ(kept.code, 0) << kept.err;
  EXPECT_EQ(kept.out, fresh.out);
  const std::vector<int64_t> prompt = figures(kept, "prompt_tokens"),
                             reused = figures(kept, "reused_tokens");
  ASSERT_EQ(prompt.size(), 2U) << kept.err;
  ASSERT_EQ(reused.size(), 2U) << kept.err;
  EXPECT_EQ(reused[0], 0);
  EXPECT_GE(reused[1], prompt[0]);  // the first turn, and what is the same of its answer
  EXPECT_LT(reused[1], prompt[1]);
  EXPECT_EQ(figures(fresh, "reused_tokens"), (std::vector<int64_t>{0, 0}));
  // A conversation that begins anew knows its first turn; only its last row is read again.
  const ProgramResult again = talk({}, "hi\n/reset\nhi\n");
  EXPECT_EQ(figures(again, "reused_tokens"), (std::vector<int64_t>{0, prompt[0] - 1}));
}

TEST_F(CacheOptionsTest, AFileOfPromptsReadsACommonBeginningOnce) {
  std::string lines;
  for (const char* end : {"x", "yz", "w"})
    lines += Json{{"prompt", std::string("Answer in one word only: ") + end}}.dump() + "\n";
  const fs::path input = dir_.write("in.jsonl", lines);
  const auto run = [&](const char* name, std::vector<std::string> words) {
    words.insert(words.begin(), {"--batch", input.string(), "--output", (dir_ / name).string(),
                                 "--max-new-tokens", "6"});
    const ProgramResult result = generate(words);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.err;
  };
  EXPECT_NE(run("a", {}).find("52 of 82 prompt tokens reused"), std::string::npos) << run("c", {});
  EXPECT_NE(run("b", {"--no-prefix-reuse"}).find(" 0 of 82"), std::string::npos);
  EXPECT_EQ(read_bytes(dir_ / "a"), read_bytes(dir_ / "b"));
  EXPECT_EQ(answer({"--prompt", "Hello", "--max-new-tokens", "2"})["reused_tokens"], 0);
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
