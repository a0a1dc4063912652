// bad_input_test.cpp — from outside: files that cannot be written to the end, broken chat
// templates, ids and bytes that are none, wrong dtypes. Each is one clear error, and leaves no file
// behind.
#include <gtest/gtest.h>

#include "tests/cli/tiny_text_model.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class BadInputTest : public TinyTextModelTest {
 protected:
  ProgramResult run(std::vector<std::string> words, const std::string& input = "",
                    const std::string& before = "") const {
    words.insert(words.begin() + 1, {"--model", dir_.path().string()});
    return run_program(words, input, before);
  }
  /// Names in the folder that do not belong to the model.
  std::vector<std::string> left_behind() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(dir_.path())) {
      const std::string name = entry.path().filename();
      if (name.find("out") != std::string::npos) out.push_back(name);
    }
    return out;
  }
};

// Files may not grow beyond 4 KiB: what a full disk does in the middle of a write.
constexpr const char* kFullDisk = "ulimit -f 8;";

TEST_F(BadInputTest, AFullDiskIsAnErrorThatNamesTheFileAndLeavesNothing) {
  for (const char* form : {"int8", "int4-g32-asym"}) {
    EXPECT_TRUE(
        fails_clearly(run({"quantize", "--output", dir_ / "out", "--weights", form}, "", kFullDisk),
                      1, {"out", "cannot be written"}))
        << form;
    EXPECT_TRUE(left_behind().empty()) << left_behind().front();
  }
  EXPECT_TRUE(fails_clearly(run({"generate", "--prompt", std::string(30, 'a'), "--max-new-tokens",
                                 "0", "--dump-logits", dir_ / "out.safetensors"},
                                "", kFullDisk),
                            1, {"out.safetensors", "cannot be written"}));
  EXPECT_TRUE(left_behind().empty()) << left_behind().front();
}

TEST_F(BadInputTest, BrokenTemplatesNameTheirFile) {
  for (const char* text : {"{% for message in messages %}", "{{ messages", "{% if %}",
                           "[INST] {{ messages[0]['content'] }} [/INST]", "\xff\xfe"}) {
    dir_.write("chat_template.jinja", text);
    EXPECT_TRUE(fails_clearly(run({"chat"}, "hi\n"), 1, {"chat_template.jinja"})) << text;
    const fs::path prompts =
        dir_.write("prompts.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"A\"}]}\n");
    EXPECT_TRUE(fails_clearly(run({"generate", "--batch", prompts, "--output", dir_ / "out.jsonl"}),
                              1, {"chat_template.jinja"}))
        << text;
  }
  EXPECT_TRUE(left_behind().empty()) << left_behind().front();
}

TEST_F(BadInputTest, IdsAndBytesThatAreNoneAreNamed) {
  EXPECT_TRUE(fails_clearly(run({"tokenize", "--decode", "--text", "[1, 96]"}), 1, {"96"}));
  EXPECT_TRUE(fails_clearly(run({"tokenize", "--decode", "--text", "[-1]"}), 1, {"-1"}));
  EXPECT_TRUE(fails_clearly(run({"tokenize", "--decode", "--text", "[1.5]"}), 1, {"1.5"}));
  EXPECT_TRUE(fails_clearly(run({"tokenize", "--decode", "--text", "[99999999999999999999]"}), 1,
                            {"1e+20"}));
  EXPECT_TRUE(fails_clearly(run({"tokenize", "--decode", "--text", "{\"a\": 1}"}), 1, {"--text"}));
  EXPECT_TRUE(fails_clearly(run({"tokenize", "--text", "a\xc3("}), 1, {"--text", "byte 1"}));
  const fs::path file = dir_.write("text.txt", "abc\xed\xa0\x80");
  EXPECT_TRUE(fails_clearly(run({"tokenize", "--file", file}), 1, {"text.txt", "byte 3"}));
  EXPECT_TRUE(fails_clearly(run({"score", "--file", file}), 1, {"text.txt", "byte 3"}));
  EXPECT_TRUE(fails_clearly(run({"score", "--text", "a\xff"}), 1, {"--text", "byte 1"}));
}

TEST_F(BadInputTest, WrongDtypesAndLongPromptsAreNamed) {
  const std::string out = dir_ / "out";
  EXPECT_TRUE(
      fails_clearly(run({"quantize", "--output", out, "--weights", "int8", "--dtype", "f8"}), 2,
                    {"--dtype", "f8"}));
  EXPECT_TRUE(fails_clearly(run({"score", "--text", "abc", "--dtype", "half"}), 2, {"half"}));
  EXPECT_TRUE(fails_clearly(run({"chat", "--dtype", "int9"}), 2, {"int9"}));
  EXPECT_TRUE(fails_clearly(run({"generate", "--prompt", std::string(200, 'a'), "--beams", "2"}), 1,
                            {"201", "64", "max_position_embeddings"}));
  EXPECT_TRUE(left_behind().empty());
}

}  // namespace
}  // namespace euromodal
