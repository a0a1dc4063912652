// caption_test.cpp — captions of a tiny coupled model: prompt and record give the same ids, the
// logits are the model's, and what is no coupled model is named.
#include "inference/caption.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "inference/language.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

const std::filesystem::path kModel = EM_SOURCE_DIR "/tests/multimodal/goldens/llava";

/// A picture of 20 x 14 with a gradient, as a PPM file.
std::string ppm(uint8_t blue) {
  std::string out = "P6\n20 14\n255\n";
  for (int y = 0; y < 14; ++y) {
    for (int x = 0; x < 20; ++x) {
      out += static_cast<char>(12 * x);
      out += static_cast<char>(18 * y);
      out += static_cast<char>(blue);
    }
  }
  return out;
}

CaptionMedium picture(const std::filesystem::path& file) {
  return {Modality::kImage, {.name = file.string(), .bytes = {}, .in_memory = false}};
}

TEST(CaptionTest, LogitsAreThoseOfTheModel) {
  const TempDir dir;
  const auto model = MultimodalModel::load(kModel, std::nullopt);
  const auto a = picture(dir.write("a.ppm", ppm(10))), b = picture(dir.write("b.ppm", ppm(200)));
  const Example example = caption_example(*model, {a, b}, "is <image> like <image>?", true);
  GenerateOptions options;
  options.max_new_tokens = 4;
  options.stop_ids = model->backbone().config().eos_ids;
  const Generated out = caption(*model, example, options, /*want_logits=*/true);
  EXPECT_EQ(out.timings.prompt_tokens, static_cast<int64_t>(example.plan.ids.size()));
  const c10::NoGradGuard no_graph;
  const at::Tensor want = model->backbone().logits(model->forward(collate({example}, false)));
  EXPECT_TRUE(tensor_near(out.prompt_logits_TV, want, {1e-4, 1e-4}));
  ASSERT_FALSE(out.tokens.empty());
  EXPECT_EQ(out.tokens[0], want[-1].argmax().item<int64_t>());
  // The other order is another question.
  const Example swapped = caption_example(*model, {b, a}, "is <image> like <image>?", true);
  EXPECT_EQ(swapped.plan.ids, example.plan.ids);
  EXPECT_FALSE(tensor_near(model->embed(collate({swapped}, false)),
                           model->embed(collate({example}, false)), {1e-3, 0}));
}

TEST(CaptionTest, RecordAndPromptAskTheSame) {
  const TempDir dir;
  const auto model = MultimodalModel::load(kModel, std::nullopt);
  const auto a = picture(dir.write("a.ppm", ppm(10)));
  const Record record = parse_record(Json::parse(R"({"id": "r", "messages": [
        {"role": "user", "parts": [{"kind": "image", "uri": "a.ppm"}, "\nwhat?"]},
        {"role": "assistant", "parts": ["a ", "thing"]}]})"),
                                     "r");
  const Example from_record = caption_record(*model, record, {a.source});
  const Example from_prompt = caption_example(*model, {a}, "what?", true);
  EXPECT_EQ(from_record.plan.ids, from_prompt.plan.ids);
  EXPECT_EQ(record_reference(record), "a thing");
  EXPECT_EQ(record_prompt(record), "<image>\nwhat?");
  EXPECT_EQ(record_kind(record), "image");
  EXPECT_TRUE(
      (throws_with<DataError>([&] { caption_record(*model, record, {}); }, {"r", "a.ppm"})));
}

TEST(CaptionTest, FaultsAreNamed) {
  const TempDir dir;
  const auto model = MultimodalModel::load(kModel, std::nullopt);
  const auto a = picture(dir.write("a.ppm", ppm(10)));
  EXPECT_TRUE((throws_with<DataError>(
      [&] { caption_example(*model, {a}, "<image> and <image>", true); }, {"image"})));
  EXPECT_TRUE((throws_with<DataError>([&] { caption_example(*model, {a}, "no marker", false); },
                                      {"image"})));
  EXPECT_TRUE((throws_with<DataError>(
      [&] {
        caption_example(*model, {{Modality::kAudio, a.source}}, "what", true);
      },
      {"audio"})));
  EXPECT_TRUE((throws_with<DataError>(
      [&] { caption(*model, caption_example(*model, {a}, std::string(400, 'x'), true), {}); },
      {"256"})));
}

TEST(CaptionTest, OtherFoldersAreNamed) {
  const TempDir dir;
  EXPECT_NO_THROW(check_captionable(kModel));
  EXPECT_TRUE((throws_with<ConfigError>([&] { check_captionable(dir.path()); }, {"config.json"})));
  dir.write("config.json", R"({"model_type": "llava"})");
  EXPECT_TRUE((throws_with<ConfigError>([&] { check_captionable(dir.path()); },
                                        {"config.json", "llava", "multimodal.yaml"})));
  dir.write("config.json", R"({"model_type": "llama"})");
  EXPECT_TRUE((throws_with<ConfigError>([&] { check_captionable(dir.path()); }, {"text model"})));
  dir.write("config.json", "[]");
  EXPECT_TRUE((throws_with<ConfigError>([&] { check_captionable(dir.path()); }, {"config.json"})));
}

TEST(CaptionPromptTest, LanguagesFillThePrompt) {
  EXPECT_EQ(caption_prompt("", ""), "Describe this.");
  EXPECT_EQ(caption_prompt("", "de"), "Describe this in German.");
  EXPECT_EQ(caption_prompt("In {language}, please; {language}!", "mt"),
            "In Maltese, please; Maltese!");
  EXPECT_EQ(caption_prompt("What is it?", "mt"), "What is it?");
  EXPECT_EQ(caption_prompt("{language}?", ""), "{language}?");
  EXPECT_TRUE((throws_with<UsageError>([] { caption_prompt("", "xx"); }, {"xx", "de", "uk"})));
}

}  // namespace
}  // namespace euromodal
