// generate_rules_test.cpp — from outside: what holds an answer (stop strings, schemas, biases),
// what is told of it (log-probabilities, n best), a file of prompts, and scores of a text.
#include <algorithm>
#include <cmath>
#include <csignal>
#include <fstream>
#include <regex>
#include <thread>

#include <gtest/gtest.h>
#include <unistd.h>

#include "backbone/weights/safetensors.h"
#include "tests/cli/tiny_text_model.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class GenerateRulesTest : public TinyTextModelTest {
 protected:
  Json answer(std::vector<std::string> words) const {
    words.push_back("--json");
    const ProgramResult result = generate(words);
    EXPECT_EQ(result.code, 0) << result.err;
    return parse_json(result.out, "stdout");
  }
  ProgramResult score(std::vector<std::string> words) const {
    words.insert(words.begin(), {"score", "--model", dir_.path().string()});
    return run_program(words);
  }
  /// `count` prompts of different lengths.
  fs::path prompts(int count) const {
    std::string text;
    for (int i = 0; i < count; ++i)
      text += Json{{"id", "p" + std::to_string(i)},
                   {"prompt",
                    std::string(1 + static_cast<size_t>(i) % 7, static_cast<char>('A' + i % 26))}}
                  .dump() +
              "\n";
    return dir_.write("prompts.jsonl", text);
  }
  static std::vector<Json> lines_of(const fs::path& file) {
    std::vector<Json> out;
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) out.push_back(parse_json(line, file.string()));
    return out;
  }
  static size_t lines_of_whole(const fs::path& file) {
    const std::string text = read_bytes(file);
    return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
  }
};

TEST_F(GenerateRulesTest, RegexAndSchemaHoldTheAnswer) {
  for (const char* seed : {"1", "2", "3"}) {
    const Json number = answer({"--prompt", "N", "--regex", "-?[1-9][0-9]{2}(,[0-9]{3})*;",
                                "--max-new-tokens", "40", "--seed", seed, "--temperature", "2"});
    const auto text = number["text"].get<std::string>();
    if (number["finish_reason"] == "stop")
      EXPECT_TRUE(std::regex_match(text, std::regex("-?[1-9][0-9]{2}(,[0-9]{3})*;"))) << text;
    else
      EXPECT_TRUE(std::regex_match(text, std::regex("-?[1-9][0-9,]*"))) << text;
    const Json list = answer(
        {"--prompt", "N", "--json-schema",
         R"({"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": [1, "ab"]}], "items": false, "minItems": 2})",
         "--max-new-tokens", "60", "--seed", seed});
    ASSERT_EQ(list["finish_reason"], "stop") << list.dump();
    const Json made = parse_json(list["text"].get<std::string>(), "answer");
    ASSERT_EQ(made.size(), 2U);
    EXPECT_TRUE(made[0].is_boolean());
    EXPECT_TRUE(made[1] == 1 || made[1] == "ab") << made.dump();
  }
  const Json beams = answer({"--prompt", "N", "--regex", "(AB|CD){1,4}!", "--beams", "3"});
  EXPECT_TRUE(std::regex_match(beams["text"].get<std::string>(), std::regex("(AB|CD){1,4}!")));
}

TEST_F(GenerateRulesTest, StopStringsEndTextAndStreamBeforeThem) {
  const std::vector<std::string> base = {"--prompt", "Hello", "--max-new-tokens", "30",
                                         "--ignore-eos"};
  const auto whole = answer(base)["text"].get<std::string>();
  ASSERT_GT(whole.size(), 12U);
  const std::string stop = whole.substr(5, 2);
  std::vector<std::string> words = base;
  words.insert(words.end(), {"--stop", "\x01", "--stop", stop});
  const Json stopped = answer(words);
  EXPECT_EQ(stopped["text"], whole.substr(0, whole.find(stop)));
  EXPECT_EQ(stopped["finish_reason"], "stop");
  const ProgramResult streamed = generate(words);
  EXPECT_EQ(streamed.out, whole.substr(0, whole.find(stop)) + "\n");
}

TEST_F(GenerateRulesTest, LogprobsNBestBiasAndLookup) {
  const Json plain = answer({"--prompt", "Hi", "--max-new-tokens", "6", "--logprobs", "2"});
  ASSERT_EQ(plain["logprobs"].size(), plain["tokens"].size());
  EXPECT_EQ(plain["logprobs"][0]["id"], plain["tokens"][0]);
  EXPECT_EQ(plain["logprobs"][0]["top"][0]["id"], plain["tokens"][0]);
  EXPECT_EQ(plain["logprobs"][0]["top"].size(), 2U);
  EXPECT_LE(plain["logprobs"][0]["logprob"].get<double>(), 0.0);
  const Json beams =
      answer({"--prompt", "Hi", "--max-new-tokens", "6", "--beams", "3", "--n-best", "2"});
  ASSERT_EQ(beams["beams"].size(), 2U);
  EXPECT_EQ(beams["beams"][0]["tokens"], beams["tokens"]);
  const Json biased = answer({"--prompt", "Hi", "--max-new-tokens", "3", "--logit-bias", "40=1e5"});
  EXPECT_EQ(biased["tokens"], Json({40, 40, 40}));
  const Json guessed = answer({"--prompt", "Hi", "--max-new-tokens", "40", "--lookup", "8"});
  EXPECT_EQ(guessed["tokens"], answer({"--prompt", "Hi", "--max-new-tokens", "40"})["tokens"]);
}

TEST_F(GenerateRulesTest, WrongRulesAreNamed) {
  EXPECT_TRUE(fails_clearly(generate({"--prompt", "a", "--regex", "(a"}), 1, {"(a", "has no )"}));
  EXPECT_TRUE(fails_clearly(generate({"--prompt", "a", "--json-schema", "{\"type\": \"x\"}"}), 1,
                            {"--json-schema", "unknown type x"}));
  EXPECT_TRUE(fails_clearly(generate({"--prompt", "a", "--json-schema", "missing.json"}), 1,
                            {"missing.json"}));
  EXPECT_TRUE(
      fails_clearly(generate({"--prompt", "a", "--logit-bias", "5"}), 2, {"--logit-bias", "5"}));
  EXPECT_TRUE(fails_clearly(generate({"--prompt", "a", "--logit-bias", "96=1"}), 1, {"96"}));
  EXPECT_TRUE(fails_clearly(generate({"--prompt", "a", "--stop", ""}), 2, {"empty"}));
  EXPECT_TRUE(
      fails_clearly(generate({"--prompt", "a", "--n-best", "3"}), 2, {"--n-best", "--beams"}));
  EXPECT_TRUE(fails_clearly(generate({"--prompt", "a", "--regex", "a", "--json-schema", "{}"}), 2,
                            {"--regex", "--json-schema"}));
}

TEST_F(GenerateRulesTest, AFileOfPromptsGivesTheAnswersOfEachAlone) {
  const fs::path input = dir_.write("in.jsonl",
                                    R"({"id": 7, "prompt": "Hi"}
{"tokens": [1, 30, 40], "max_new_tokens": 3}

{"id": "chat", "messages": [{"role": "user", "content": "A?"}]}
{"id": "long", "prompt": ")" + std::string(80, 'x') +
                                        R"("}
)");
  const fs::path output = dir_ / "out.jsonl";
  const ProgramResult result =
      generate({"--batch", input, "--output", output, "--max-new-tokens", "9"});
  EXPECT_EQ(result.code, 1) << result.err;  // one is too long
  const std::vector<Json> answers = lines_of(output);
  ASSERT_EQ(answers.size(), 4U);
  EXPECT_EQ(answers[0]["id"], "7");
  EXPECT_EQ(answers[0]["tokens"], answer({"--prompt", "Hi", "--max-new-tokens", "9"})["tokens"]);
  EXPECT_EQ(answers[1]["id"], "1");
  EXPECT_EQ(answers[1]["tokens"],
            answer({"--tokens", "1,30,40", "--max-new-tokens", "3"})["tokens"]);
  EXPECT_EQ(answers[2]["tokens"],
            answer({"--prompt", "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n",
                    "--max-new-tokens", "9"})["tokens"]);
  EXPECT_EQ(answers[3]["id"], "long");
  EXPECT_NE(answers[3]["error"].get<std::string>().find("64"), std::string::npos);
  EXPECT_FALSE(fs::exists(output.string() + ".part"));
}

TEST_F(GenerateRulesTest, AKilledBatchGoesOnWithoutALineLostOrTwice) {
  constexpr int kPrompts = 400;
  const fs::path input = prompts(kPrompts), output = dir_ / "out.jsonl",
                 part = output.string() + ".part";
  const std::vector<std::string> words = {"--batch",          input, "--output",     output,
                                          "--max-new-tokens", "24",  "--batch-size", "3",
                                          "--ignore-eos"};
  int kills = 0;
  for (size_t seen = 40; kills < 3; seen += 90) {
    const pid_t child = ::fork();
    if (child == 0) {
      std::vector<std::string> all = {EM_PROGRAM, "generate", "--model", dir_.path().string()};
      all.insert(all.end(), words.begin(), words.end());
      std::vector<char*> argv;
      for (std::string& word : all) argv.push_back(word.data());
      argv.push_back(nullptr);
      ::freopen("/dev/null", "w", stderr);
      ::execv(EM_PROGRAM, argv.data());
      ::_exit(127);
    }
    while (::kill(child, 0) == 0 && (!fs::exists(part) || lines_of_whole(part) < seen)) {
      if (::waitpid(child, nullptr, WNOHANG) == child) FAIL() << "ended before it was killed";
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ++kills;
    EXPECT_FALSE(fs::exists(output));
    std::ofstream(part, std::ios::app) << "{\"id\": \"p39";  // cut off in the middle of a line
  }
  const ProgramResult last = generate(words);
  ASSERT_EQ(last.code, 0) << last.err;
  EXPECT_NE(last.err.find("are there already"), std::string::npos) << last.err;
  const std::vector<Json> answers = lines_of(output);
  ASSERT_EQ(answers.size(), static_cast<size_t>(kPrompts));
  const fs::path again = dir_ / "again.jsonl";
  std::vector<std::string> undisturbed = words;
  undisturbed[3] = again.string();
  ASSERT_EQ(generate(undisturbed).code, 0);
  EXPECT_EQ(read_bytes(again), read_bytes(output));
  for (int i = 0; i < kPrompts; ++i)
    EXPECT_EQ(answers[static_cast<size_t>(i)]["id"], "p" + std::to_string(i));
}

TEST_F(GenerateRulesTest, BadPromptFilesAreNamedAndLeaveNothing) {
  const fs::path output = dir_ / "out.jsonl";
  const auto run = [&](const std::string& text) {
    return generate({"--batch", dir_.write("bad.jsonl", text), "--output", output});
  };
  EXPECT_TRUE(fails_clearly(run("{\"prompt\": \"a\"}\n{\"prompt\"\n"), 1, {"bad.jsonl:2"}));
  EXPECT_TRUE(fails_clearly(run("{\"promt\": \"a\"}\n"), 1, {"bad.jsonl:1", "promt"}));
  EXPECT_TRUE(
      fails_clearly(run("{\"id\": 1, \"prompt\": \"a\"}\n{\"id\": \"1\", \"prompt\": \"b\"}\n"), 1,
                    {"bad.jsonl:2", "twice"}));
  EXPECT_TRUE(fails_clearly(run("{\"id\": 1}\n"), 1, {"exactly one"}));
  EXPECT_TRUE(fails_clearly(run(""), 1, {"no prompts"}));
  EXPECT_TRUE(fails_clearly(generate({"--batch", "x"}), 2, {"--output"}));
  EXPECT_FALSE(fs::exists(output) || fs::exists(output.string() + ".part"));
}

TEST_F(GenerateRulesTest, ScoresOfAText) {
  const ProgramResult result = score({"--text", "Hello", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const Json json = parse_json(result.out, "stdout");
  EXPECT_EQ(json["tokens"].size(), 6U);
  ASSERT_EQ(json["logprobs"].size(), 5U);
  double sum = 0.0;
  for (const Json& one : json["logprobs"]) sum += one.get<double>();
  EXPECT_NEAR(json["perplexity"].get<double>(), std::exp(-sum / 5.0), 1e-3);
  const fs::path file = dir_ / "e.safetensors";
  ASSERT_EQ(score({"--file", dir_.write("text.txt", "Hello"), "--embedding", file}).code, 0);
  EXPECT_EQ(SafetensorsFile(file).infos()[0].shape, std::vector<int64_t>{32});
  EXPECT_TRUE(fails_clearly(score({"--text", ""}), 1, {"at least 2"}));
  EXPECT_TRUE(fails_clearly(score({}), 2, {"--text", "--file"}));
}

}  // namespace
}  // namespace euromodal
