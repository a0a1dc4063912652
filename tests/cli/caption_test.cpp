// caption_test.cpp — `euromodal caption` as a user calls it, on a tiny coupled model.
#include <gtest/gtest.h>

#include "backbone/weights/safetensors.h"
#include "core/json.h"
#include "tests/support/program.h"

namespace euromodal {
namespace {

const std::string kModel = EM_SOURCE_DIR "/tests/multimodal/goldens/llava";

std::string write_picture(const TempDir& dir, const std::string& name, char red) {
  std::string bytes = "P6\n8 8\n255\n";
  for (int i = 0; i < 64; ++i) bytes += {red, static_cast<char>(3 * i), 'x'};
  return dir.write(name, bytes).string();
}

std::vector<std::string> words(std::vector<std::string> more) {
  std::vector<std::string> out = {"caption", "--model", kModel, "--max-new-tokens", "3"};
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

TEST(CaptionProgramTest, JsonAndLogits) {
  const TempDir dir;
  const std::string a = write_picture(dir, "a.ppm", 'a'), logits = (dir / "l.safetensors").string();
  const ProgramResult result = run_program(
      words({"--image", a, "--prompt", "what is this", "--json", "--dump-logits", logits}));
  ASSERT_EQ(result.code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_LE(json.at("tokens").size(), 3U);
  const SafetensorsFile file(logits);
  const at::Tensor tensor = file.tensor(*file.find("logits"));
  EXPECT_EQ(tensor.size(0), json.at("prompt_tokens").get<int64_t>());
  // Markers at the place where the picture stands anyway ask the same.
  const ProgramResult marked =
      run_program(words({"--image", a, "--prompt", "<image>\nwhat is this", "--json"}));
  ASSERT_EQ(marked.code, 0) << marked.err;
  EXPECT_EQ(Json::parse(marked.out).at("tokens"), json.at("tokens"));
}

TEST(CaptionProgramTest, EveryGenerationOptionIsTaken) {
  const TempDir dir;
  const std::string a = write_picture(dir, "a.ppm", 'a'), b = write_picture(dir, "b.ppm", 'b');
  for (const std::vector<std::string>& more : std::vector<std::vector<std::string>>{
           {"--beams", "2", "--length-penalty", "0.5"},
           {"--temperature", "0.7", "--top-k", "5", "--top-p", "0.9", "--seed", "3"},
           {"--greedy", "--repetition-penalty", "1.2", "--no-repeat-ngram", "2"},
           {"--dtype", "bfloat16"},
           {"--language", "de"}}) {
    std::vector<std::string> all = {"--image", a, "--image", b};
    all.insert(all.end(), more.begin(), more.end());
    const ProgramResult result = run_program(words(all));
    EXPECT_EQ(result.code, 0) << more[0] << ": " << result.err;
    EXPECT_FALSE(result.out.empty());
  }
}

// A picture of an earlier turn is known by what it is: neither encoded nor read again.
TEST(CaptionProgramTest, TheSecondTurnOfAChatKnowsThePicture) {
  const TempDir dir;
  const std::string talk = "/image " + write_picture(dir, "a.ppm", 'a') + "\nwhat\nand\n/reset\n" +
                           "/image " + write_picture(dir, "b.ppm", 'b') + "\nwhat\n";
  const std::vector<std::string> chat = {"chat", "--model",   kModel,       "--max-new-tokens",
                                         "3",    "--timings", "--kv-cache", "auto"};
  auto whole = chat;
  whole.emplace_back("--no-prefix-reuse");
  const ProgramResult kept = run_program(chat, talk), fresh = run_program(whole, talk);
  ASSERT_EQ(kept.code, 0) << kept.err;
  EXPECT_EQ(kept.out, fresh.out);
  std::vector<int64_t> prompt, reused;
  std::istringstream lines(kept.err);
  for (std::string line; std::getline(lines, line);) {
    long long tokens = 0, known = 0;
    if (std::sscanf(line.c_str(), "prompt_tokens=%lld reused_tokens=%lld", &tokens, &known) != 2)
      continue;
    prompt.push_back(tokens);
    reused.push_back(known);
  }
  ASSERT_EQ(prompt.size(), 3U) << kept.err;
  EXPECT_GE(reused[1], prompt[0]);
  EXPECT_LT(reused[2], prompt[0] - 8);  // another picture: only the words before it
}

TEST(CaptionProgramTest, RecordsOfADataSet) {
  const TempDir dir;
  write_picture(dir, "a.ppm", 'a');
  const std::string line =
      R"({"id": "one", "lang": "en", "messages": [{"role": "user", "parts": [{"kind": "image", "uri": "a.ppm"}, "\nwhat?"]}, {"role": "assistant", "parts": ["this"]}]})";
  const std::string text =
      R"({"id": "two", "messages": [{"role": "user", "parts": ["what?"]}, {"role": "assistant", "parts": ["that"]}]})";
  const std::string records = dir.write("r.jsonl", line + "\n" + text + "\n").string();
  const std::string output = (dir / "out.jsonl").string();
  const ProgramResult result = run_program(words({"--records", records, "--output", output}));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(result.out.empty());
  std::istringstream lines(read_bytes(output));
  std::vector<Json> rows;
  for (std::string row; std::getline(lines, row);) rows.push_back(Json::parse(row));
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].at("id"), "one");
  EXPECT_EQ(rows[0].at("lang"), "en");
  EXPECT_EQ(rows[0].at("kind"), "image");
  EXPECT_EQ(rows[0].at("prompt"), "<image>\nwhat?");
  EXPECT_EQ(rows[0].at("reference"), "this");
  EXPECT_EQ(rows[1].at("kind"), "text");
  const ProgramResult alone =
      run_program(words({"--image", (dir / "a.ppm").string(), "--prompt", "what?", "--json"}));
  EXPECT_EQ(rows[0].at("text"), Json::parse(alone.out).at("text"));
  EXPECT_EQ(rows[0].at("tokens"), Json::parse(alone.out).at("tokens"));

  // A bad record ends it, and the file that was there stays.
  dir.write("bad.jsonl", line + "\n" + R"({"id": "three", "messages": []})" + "\n");
  const std::string before = read_bytes(output);
  EXPECT_TRUE(fails_clearly(
      run_program(words({"--records", (dir / "bad.jsonl").string(), "--output", output})), 1,
      {"bad.jsonl", "messages"}));
  EXPECT_EQ(read_bytes(output), before);
}

TEST(CaptionProgramTest, BadInputIsOneClearError) {
  const TempDir dir;
  const std::string a = write_picture(dir, "a.ppm", 'a');
  const std::string broken = dir.write("broken.png", "\x89PNG\r\n\x1a\nxx").string();
  const std::string logits = (dir / "l.safetensors").string();
  const auto fails = [&](int code, std::vector<std::string> more,
                         std::initializer_list<std::string_view> named) {
    more.insert(more.end(), {"--dump-logits", logits});
    const auto result = fails_clearly(run_program(words(more)), code, named);
    EXPECT_FALSE(std::filesystem::exists(logits));
    return result;
  };
  EXPECT_TRUE(fails(1, {"--image", a, "--prompt", "<image> <image>"}, {"image"}));
  EXPECT_TRUE(fails(1, {"--image", a, "--prompt", "<audio>"}, {"audio"}));
  EXPECT_TRUE(fails(1, {"--image", a, "--prompt", "x", "--no-template"}, {"image"}));
  EXPECT_TRUE(fails(1, {"--audio", a, "--prompt", "x"}, {"audio"}));
  EXPECT_TRUE(fails(1, {"--image", broken}, {"broken.png"}));
  EXPECT_TRUE(fails(1, {"--image", (dir / "none.png").string()}, {"none.png"}));
  EXPECT_TRUE(fails(1, {"--image", a, "--prompt", "\xff"}, {"--prompt"}));
  EXPECT_TRUE(fails(1, {"--image", a, "--prompt", std::string(400, 'x')}, {"256"}));
  EXPECT_TRUE(fails(2, {"--image", a, "--language", "xx"}, {"xx"}));
  EXPECT_TRUE(fails(2, {}, {"--image"}));
  EXPECT_TRUE(fails(2, {"--records", "r.jsonl"}, {"--output"}));
}

}  // namespace
}  // namespace euromodal
