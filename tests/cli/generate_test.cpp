// generate_test.cpp — `euromodal generate` and `chat` from outside: JSON, logits, wrong words.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include "backbone/weights/safetensors.h"
#include "core/json.h"
#include "tests/cli/tiny_text_model.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

using GenerateTest = TinyTextModelTest;

TEST_F(GenerateTest, JsonHoldsTheTokensOfTheGoldens) {
  const Json goldens =
      read_json(fs::path(EM_SOURCE_DIR) / "tests/inference/goldens/generation.json");
  const Json& golden = goldens["cases"][12];  // the first of the second prompt: greedy
  std::string tokens;
  for (const Json& id : golden["prompt"]) tokens += (tokens.empty() ? "" : ",") + id.dump();
  const ProgramResult result =
      generate({"--tokens", tokens, "--max-new-tokens", "20", "--greedy", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const Json out = parse_json(result.out, "stdout");
  EXPECT_EQ(out["tokens"], golden["tokens"]);
  EXPECT_EQ(out["prompt_tokens"], golden["prompt"].size());
  EXPECT_TRUE(out["text"].is_string());
  EXPECT_TRUE(out["timings"].is_object());
}

TEST_F(GenerateTest, DumpsLogitsOfTheWholePrompt) {
  const fs::path file = dir_ / "logits.safetensors";
  const ProgramResult result = generate(
      {"--prompt", "Hi <|im_start|>!", "--max-new-tokens", "0", "--json", "--dump-logits", file});
  ASSERT_EQ(result.code, 0) << result.err;
  // <s> H i blank <|im_start|> !
  EXPECT_EQ(parse_json(result.out, "stdout")["prompt_tokens"], 6);
  const SafetensorsFile dump(file);
  ASSERT_EQ(dump.infos().size(), 1U);
  EXPECT_EQ(dump.infos()[0].name, "logits");
  EXPECT_EQ(dump.infos()[0].dtype, at::kFloat);
  EXPECT_EQ(dump.infos()[0].shape, (std::vector<int64_t>{6, 96}));
}

TEST_F(GenerateTest, StreamedTextIsTheTextOfTheJson) {
  const std::vector<std::string> words = {"--prompt", "abc", "--max-new-tokens", "12"};
  auto with_json = words;
  with_json.emplace_back("--json");
  const ProgramResult plain = generate(words), json = generate(with_json);
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.out, parse_json(json.out, "stdout")["text"].get<std::string>() + "\n");
}

TEST_F(GenerateTest, WrongWordsAreNamed) {
  const fs::path file = dir_ / "logits.safetensors";
  struct Case {
    std::vector<std::string> words;
    int code;
    std::string named;
  };
  const std::vector<Case> cases = {
      {{"--tokens", "1,5", "--max-new-tokens", "-1"}, 2, "--max-new-tokens"},
      {{"--tokens", "1,5", "--max-new-tokens", "99999999999999999999"}, 2, "--max-new-tokens"},
      {{"--tokens", "1,5", "--temperature", "-0.5"}, 2, "--temperature"},
      {{"--tokens", "1,5", "--temperature", "nan"}, 2, "--temperature"},
      {{"--tokens", "1,5", "--top-k", "-2"}, 2, "--top-k"},
      {{"--tokens", "1,5", "--top-p", "1.01"}, 2, "--top-p"},
      {{"--tokens", "1,5", "--repetition-penalty", "0"}, 2, "--repetition-penalty"},
      {{"--tokens", "1,5", "--beams", "0"}, 2, "--beams"},
      {{"--tokens", "1,5", "--dtype", "int3"}, 2, "int3"},
      {{"--tokens", "1,5", "--device", "tpu"}, 2, "tpu"},
      {{"--tokens", ""}, 2, "--tokens"},
      {{"--tokens", "1,,5"}, 2, "--tokens"},
      {{"--tokens", "1,5,"}, 2, "--tokens"},
      {{"--tokens", "1,5x"}, 2, "5x"},
      {{"--tokens", "1,-5"}, 2, "-5"},
      {{"--tokens", "1,99999999999999999999"}, 2, "99999999999999999999"},
      {{"--tokens", "1,96"}, 1, "96"},
      {{"--prompt", "a", "--tokens", "1"}, 2, "--tokens"},
      {{}, 2, "--prompt"},
      {{"--prompt", "a\xc3\x28z"}, 1, "--prompt"},
      {{"--prompt", std::string(64, 'a')}, 1, "max_position_embeddings"},
  };
  for (Case c : cases) {
    c.words.insert(c.words.end(), {"--dump-logits", file.string()});
    std::string line;
    for (const std::string& word : c.words) line += word + " ";
    EXPECT_TRUE(fails_clearly(generate(c.words), c.code, {c.named})) << line;
    EXPECT_FALSE(fs::exists(file)) << line;
  }
  EXPECT_TRUE(fails_clearly(run_program({"generate", "--model", "/no_such_model", "--tokens", "1"}),
                            1, {"no_such_model"}));
}

TEST_F(GenerateTest, LogitsThatCannotBeWrittenLeaveNothing) {
  const ProgramResult result = generate({"--tokens", "1,5", "--max-new-tokens", "1", "--json",
                                         "--dump-logits", dir_ / "no_folder/x.safetensors"});
  EXPECT_TRUE(fails_clearly(result, 1, {"no_folder"}));
  EXPECT_FALSE(fs::exists(dir_ / "no_folder"));
}

TEST_F(GenerateTest, WithoutADriverCudaIsOneClearError) {
  if (::dlopen("libcuda.so.1", RTLD_NOW))
    GTEST_SKIP()
        << "this host has an NVIDIA driver; tests_ops_gpu of preset cuda runs there instead";
  const ProgramResult result = generate({"--tokens", "1,5", "--device", "cuda"});
  EXPECT_TRUE(fails_clearly(result, 1, {"--device cuda", "--device cpu"}));
}

TEST_F(GenerateTest, ChatAnswersThroughAPipe) {
  const std::vector<std::string> words = {"chat", "--model", dir_.path().string(),
                                          "--max-new-tokens", "6"};
  const ProgramResult two = run_program(words, "hi\n/reset\nhi\n/quit\nnever read\n");
  ASSERT_EQ(two.code, 0) << two.err;
  // After /reset the same message has the same answer.
  const size_t half = two.out.size() / 2;
  ASSERT_GT(half, 0U);
  EXPECT_EQ(two.out.substr(0, half), two.out.substr(half));
  EXPECT_EQ(two.out[half - 1], '\n');
}

TEST_F(GenerateTest, ChatSurvivesABadTurnAndSaysSoAtTheEnd) {
  const std::vector<std::string> words = {"chat", "--model", dir_.path().string(),
                                          "--max-new-tokens", "4"};
  const ProgramResult good = run_program(words, "hi\n");
  for (const std::string& bad :
       {std::string("/sparkle"), std::string("/image x.png"), std::string("/image"),
        std::string(80, 'a'), std::string("a\xc3\x28")}) {
    const ProgramResult result = run_program(words, bad + "\nhi\n");
    EXPECT_EQ(result.code, 1) << bad;
    EXPECT_NE(result.err.find("error:"), std::string::npos) << bad;
    EXPECT_EQ(result.out, good.out) << bad;
  }
}

}  // namespace
}  // namespace euromodal
