// token_plan_test.cpp — ids as transformers makes them, labels exactly on what the assistant says,
// markers and media that must agree.
#include "multimodal/token_plan.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/weights/safetensors.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

const std::filesystem::path kGoldens = std::filesystem::path(EM_TEST_DIR) / "goldens";

/// `llava` has the token <image>; in `plain` all placeholders stand beyond the vocabulary.
PlanContext context_of(const std::string& folder, bool audio = true) {
  PlanContext out;
  out.tokenizer = Tokenizer::load(kGoldens / folder);
  out.chat = ChatTemplate::load(kGoldens / folder);
  set_placeholder(out, Modality::kImage, "<image>", 900);
  if (audio) set_placeholder(out, Modality::kAudio, "<audio>", 901);
  return out;
}

Record record_of(const std::string& messages) {
  return parse_record(parse_json(R"({"id": "s1", "messages": )" + messages + "}", "s1"), "s1");
}

std::vector<int64_t> labelled(const TokenPlan& plan) {
  std::vector<int64_t> out;
  std::copy_if(plan.labels.begin(), plan.labels.end(), std::back_inserter(out),
               [](int64_t label) { return label >= 0; });
  return out;
}

TEST(TokenPlanTest, PromptIdsAreThoseOfTransformers) {
  const SafetensorsFile golden(kGoldens / "llava.safetensors");
  const PlanContext context = context_of("llava");
  EXPECT_EQ(context.placeholder_id[0], 5);
  EXPECT_EQ(context.placeholder_id[1], 901);
  for (const std::string i : {"0", "1"}) {
    const std::string prompt = golden.metadata().at("prompt." + i);
    const at::Tensor ids = golden.tensor(*golden.find("ids." + i));
    const std::vector<int64_t> want(ids.const_data_ptr<int64_t>(),
                                    ids.const_data_ptr<int64_t>() + ids.numel());
    const size_t images = i == "0" ? 1 : 2;
    const TokenPlan plan =
        plan_prompt(prompt, std::vector<Modality>(images, Modality::kImage),
                    std::vector<int64_t>(images, 16), /*use_template=*/true, context);
    EXPECT_EQ(plan.ids, want);
    ASSERT_EQ(plan.spans.size(), images);
    for (const Span& span : plan.spans) {
      EXPECT_EQ(span.length, 16);
      for (int64_t t = 0; t < 16; ++t) EXPECT_EQ(plan.ids[static_cast<size_t>(span.start + t)], 5);
    }
    EXPECT_TRUE(labelled(plan).empty());
  }
}

TEST(TokenPlanTest, WithoutMarkersTheMediaComeFirst) {
  const PlanContext context = context_of("llava");
  const std::vector<Modality> kinds = {Modality::kImage, Modality::kAudio};
  EXPECT_EQ(plan_prompt("What?", kinds, {3, 2}, true, context).ids,
            plan_prompt("<image>\n<audio>\nWhat?", kinds, {3, 2}, true, context).ids);
}

TEST(TokenPlanTest, PiecesAroundAPlaceholderThatIsNoToken) {
  const PlanContext plain = context_of("plain"), llava = context_of("llava");
  ASSERT_EQ(plain.placeholder_id[0], 900);
  const TokenPlan a = plan_prompt("a <image> b", {Modality::kImage}, {3}, true, plain);
  const TokenPlan b = plan_prompt("a <image> b", {Modality::kImage}, {3}, true, llava);
  ASSERT_EQ(a.ids.size(), b.ids.size());
  EXPECT_EQ(a.spans[0].start, b.spans[0].start);
  for (size_t t = 0; t < a.ids.size(); ++t) {
    if (a.ids[t] == 900) {
      EXPECT_EQ(b.ids[t], 5);
    } else {
      EXPECT_EQ(plain.tokenizer->token_of(a.ids[t]), llava.tokenizer->token_of(b.ids[t]));
    }
  }
}

TEST(TokenPlanTest, WithoutTemplateThePromptIsTakenAsItIs) {
  const PlanContext context = context_of("llava");
  const TokenPlan plan = plan_prompt("<image>this", {Modality::kImage}, {2}, false, context);
  std::vector<int64_t> want = {1, 5, 5};
  const auto text = context.tokenizer->encode("this", EncodeMode::kNoSpecial);
  want.insert(want.end(), text.begin(), text.end());
  EXPECT_EQ(plan.ids, want);
}

TEST(TokenPlanTest, OneBosWhenThePromptBringsItsOwn) {
  const PlanContext context = context_of("llava");
  const TokenPlan plan = plan_prompt("<s><image>", {Modality::kImage}, {2}, false, context);
  EXPECT_EQ(plan.ids, (std::vector<int64_t>{1, 5, 5}));
  EXPECT_EQ(plan.spans[0].start, 1);
}

TEST(TokenPlanTest, LabelsCoverTheAnswerAndItsEnd) {
  for (const char* folder : {"llava", "plain"}) {
    const PlanContext context = context_of(folder);
    const Record record = record_of(
        R"([{"role": "user", "parts": [{"kind": "image", "uri": "x"}, "\nWhat?"]},
            {"role": "assistant", "parts": ["a thing"]}])");
    const TokenPlan plan = plan_record(record, {4}, context);
    std::vector<int64_t> want = context.tokenizer->encode("a thing", EncodeMode::kContinuation);
    want.push_back(4);  // <|im_end|>
    EXPECT_EQ(labelled(plan), want);
    for (size_t t = 0; t + 1 < plan.ids.size(); ++t) {
      if (plan.labels[t] < 0) continue;
      EXPECT_EQ(plan.labels[t], plan.ids[t + 1]);
    }
    EXPECT_EQ(std::count(plan.ids.begin(), plan.ids.end(), 1), 1);
    // What inference sees is the beginning of what training sees, and the first label follows it.
    const TokenPlan prompt = plan_record_prompt(record, {4}, context);
    ASSERT_LT(prompt.ids.size(), plan.ids.size());
    EXPECT_TRUE(std::equal(prompt.ids.begin(), prompt.ids.end(), plan.ids.begin()));
    EXPECT_EQ(plan.labels[prompt.ids.size() - 1], want[0]);
    EXPECT_TRUE(std::all_of(plan.labels.begin(),
                            plan.labels.begin() + static_cast<int64_t>(prompt.ids.size()) - 1,
                            [](int64_t label) { return label == -100; }));
    EXPECT_EQ(prompt.ids,
              plan_prompt("<image>\nWhat?", {Modality::kImage}, {4}, true, context).ids);
  }
}

TEST(TokenPlanTest, EveryAssistantTurnIsSupervised) {
  const PlanContext context = context_of("llava");
  const Record record = record_of(
      R"([{"role": "system", "parts": ["short"]}, {"role": "user", "parts": ["a"]},
          {"role": "assistant", "parts": ["one"]},
          {"role": "user", "parts": [{"kind": "audio", "uri": "x"}]},
          {"role": "assistant", "parts": ["two"]}])");
  const TokenPlan plan = plan_record(record, {2}, context);
  EXPECT_EQ(context.tokenizer->decode(labelled(plan), /*skip_special=*/false),
            "one<|im_end|>two<|im_end|>");
  ASSERT_EQ(plan.spans.size(), 1u);
  EXPECT_EQ(plan.spans[0].kind, Modality::kAudio);
}

TEST(TokenPlanTest, MediaInAnAnswerAreNoTargets) {
  const PlanContext context = context_of("llava");
  const Record record = record_of(
      R"([{"role": "user", "parts": ["show"]},
          {"role": "assistant", "parts": ["see ", {"kind": "image", "uri": "x"}, "end"]}])");
  const auto labels = labelled(plan_record(record, {3}, context));
  EXPECT_EQ(std::count(labels.begin(), labels.end(), 5), 0);
  EXPECT_EQ(context.tokenizer->decode(labels, false), "see end<|im_end|>");
}

TEST(TokenPlanTest, MarkersOfOtherModelsAreTextInRecords) {
  const PlanContext context = context_of("llava", /*audio=*/false);
  const Record record = record_of(
      R"([{"role": "user", "parts": ["<video> is a tag"]}, {"role": "assistant", "parts": ["a"]}])");
  EXPECT_TRUE(plan_record(record, {}, context).spans.empty());
}

TEST(TokenPlanTest, BadRecordsAreNamed) {
  const PlanContext context = context_of("llava");
  const auto fails = [&](const std::string& messages, const std::vector<int64_t>& counts,
                         std::initializer_list<std::string_view> words) {
    return throws_with<DataError>([&] { plan_record(record_of(messages), counts, context); },
                                  words);
  };
  const std::string image = R"([{"role": "user", "parts": [{"kind": "image", "uri": "x"}]},
      {"role": "assistant", "parts": ["a"]}])";
  EXPECT_TRUE(fails(R"([{"role": "user", "parts": ["a"]}])", {}, {"s1", "no token to learn"}));
  EXPECT_TRUE(fails(image, {}, {"s1"}));
  EXPECT_TRUE(fails(image, {2, 2}, {"s1", "2"}));
  EXPECT_TRUE(fails(image, {0}, {"s1", "image 0", "0 tokens"}));
  EXPECT_TRUE(fails(R"([{"role": "user", "parts": [{"kind": "video", "uri": "clip.mp4"}]},
      {"role": "assistant", "parts": ["a"]}])",
                    {2}, {"s1", "takes no video", "clip.mp4"}));
  EXPECT_TRUE(fails(R"([{"role": "user", "parts": ["an <image> here"]},
      {"role": "assistant", "parts": ["a"]}])",
                    {}, {"s1", "marker"}));
}

TEST(TokenPlanTest, MarkersAndMediaMustAgree) {
  const PlanContext context = context_of("llava");
  const Modality image = Modality::kImage, audio = Modality::kAudio, video = Modality::kVideo;
  const auto fails = [&](const std::string& prompt, const std::vector<Modality>& kinds,
                         std::initializer_list<std::string_view> words) {
    for (const bool use_template : {true, false}) {
      if (!throws_with<DataError>(
              [&] {
                plan_prompt(prompt, kinds, std::vector<int64_t>(kinds.size(), 2), use_template,
                            context);
              },
              words))
        return false;
    }
    return true;
  };
  EXPECT_TRUE(fails("<image> what", {}, {"image"}));
  EXPECT_TRUE(fails("<image> <image>", {image}, {"image", "2", "1"}));
  EXPECT_TRUE(fails("<image>", {image, image}, {"image"}));
  EXPECT_TRUE(fails("<image>", {audio}, {"image"}));
  EXPECT_TRUE(fails("<image> <audio>", {audio, image}, {"order", "image, audio"}));
  EXPECT_TRUE(fails("<image> <video>", {image}, {"video"}));
  EXPECT_TRUE(fails("what", {video}, {"takes no video"}));
  EXPECT_TRUE((throws_with<DataError>(
      [&] { plan_prompt("what", {image}, {2}, /*use_template=*/false, context); }, {"image"})));
  EXPECT_NO_THROW(plan_prompt("what", {image}, {2}, /*use_template=*/true, context));
}

TEST(TokenPlanTest, PlaceholdersAreDistinct) {
  PlanContext context = context_of("llava");
  EXPECT_TRUE((throws_with<ConfigError>(
      [&] { set_placeholder(context, Modality::kVideo, "<image>", 905); }, {"video", "<image>"})));
}

}  // namespace
}  // namespace euromodal
