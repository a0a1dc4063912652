// gguf_test.cpp — the text commands with a GGUF file as --model, from outside: a small Q8_0 model
// with its vocabulary (tests/backbone/make_gguf_goldens.py).
#include <filesystem>

#include <gtest/gtest.h>

#include "core/json.h"
#include "tests/support/program.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

const std::string kFile =
    (fs::path(EM_SOURCE_DIR) / "tests/backbone/goldens/gguf/chat.gguf").string();

Json json_of(const std::vector<std::string>& words) {
  const ProgramResult r = run_program(words);
  EXPECT_EQ(r.code, 0) << r.err;
  return parse_json(r.out, "stdout");
}

TEST(GgufProgramTest, GeneratesAndScores) {
  const auto generate = [](const std::string& model) {
    return json_of({"generate", "--model", model, "--prompt", "The cat", "--max-new-tokens", "8",
                    "--ignore-eos", "--json"});
  };
  const Json file = generate(kFile);
  EXPECT_EQ(file["tokens"].size(), 8U);
  const TempDir dir;
  fs::copy_file(kFile, dir / "model.gguf");
  EXPECT_EQ(generate(dir.path().string())["tokens"], file["tokens"]);  // the folder's only file

  // What quantize writes is the same model: the codes of the file, its tokenizer and template.
  const std::string out = dir / "packed";
  const ProgramResult made =
      run_program({"quantize", "--model", kFile, "--output", out, "--weights", "int8-g32"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_EQ(generate(out)["tokens"], file["tokens"]);
  EXPECT_TRUE(fails_clearly(
      run_program({"quantize", "--model", kFile, "--output", dir / "four", "--weights", "int4"}), 1,
      {"int8-g32", "int4"}));
  const Json score = json_of({"score", "--model", kFile, "--reference", out, "--text",
                              "The cat sleeps in the sun.", "--json"});
  EXPECT_EQ(score["mean_kl"].get<double>(), 0.0);
  EXPECT_EQ(score["top1_agreement"].get<double>(), 1.0);
}

TEST(GgufProgramTest, ChatsInChatMl) {
  const ProgramResult r =
      run_program({"chat", "--model", kFile, "--max-new-tokens", "4"}, "The cat\n/quit\n");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_FALSE(r.out.empty());
}

TEST(GgufProgramTest, TokenizesAndInspects) {
  const std::string text = "The <s> cat 猫";
  const ProgramResult ids = run_program({"tokenize", "--model", kFile, "--text", text});
  ASSERT_EQ(ids.code, 0) << ids.err;
  const ProgramResult back =
      run_program({"tokenize", "--model", kFile, "--decode", "--no-special", "--text", ids.out});
  EXPECT_EQ(back.out, "The  cat 猫\n");
  const Json about = json_of({"inspect", kFile, "--json"});
  EXPECT_EQ(about["kind"], "GGUF");
  EXPECT_EQ(about["architecture"], "llama");
  EXPECT_EQ(about["layers"], 2);
  EXPECT_EQ(about["tokenizer_entries"], 422);
  EXPECT_EQ(about["weights"]["dtypes"]["Q8_0"], 15);
  EXPECT_EQ(about["weights"]["list"][0]["dtype"], "Q8_0");
  // A vocabulary alone can be looked at too.
  const Json vocabulary = json_of(
      {"inspect", std::string(EM_SOURCE_DIR) + "/tests/backbone/weights/goldens/gguf/gpt_2.gguf",
       "--json"});
  EXPECT_EQ(vocabulary["architecture"], "gpt2");
  EXPECT_EQ(vocabulary["weights"]["tensors"], 0);
}

TEST(GgufProgramTest, BenchTakesIt) {
  const ProgramResult r = run_program({"bench", "text", "--model", kFile, "--prompt-tokens", "8",
                                       "--new-tokens", "4", "--repetitions", "1"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.out.find("weights int8-g32"), std::string::npos) << r.out;
}

TEST(GgufProgramTest, FaultsAreClear) {
  const TempDir dir;
  dir.write("not.gguf", "GGML");
  for (const char* command : {"generate", "tokenize"}) {
    const std::string option = std::string(command) == "generate" ? "--prompt" : "--text";
    EXPECT_TRUE(fails_clearly(run_program({command, "--model", dir / "not.gguf", option, "a"}), 1,
                              {"not.gguf", "GGUF"}));
  }
  EXPECT_TRUE(fails_clearly(run_program({"inspect", dir / "not.gguf"}), 1, {"not.gguf", "GGUF"}));
  EXPECT_TRUE(fails_clearly(
      run_program({"generate", "--model",
                   std::string(EM_SOURCE_DIR) + "/tests/backbone/weights/goldens/gguf/gpt_2.gguf",
                   "--prompt", "a"}),
      1, {"gpt_2.gguf", "general.architecture", "gpt2"}));
}

}  // namespace
}  // namespace euromodal
