// record_test.cpp — samples are read strictly, and written as they were.
#include "multimodal/record.h"

#include <gtest/gtest.h>

#include "tests/support/temp.h"

namespace euromodal {
namespace {

constexpr const char* kSample = R"({"id": "a/1", "lang": "de", "label": "apple", "messages": [
  {"role": "system", "parts": ["Sei kurz."]},
  {"role": "user", "parts": [{"kind": "image", "uri": "a.0.jpg"}, {"text": "Was ist das?"},
    {"kind": "audio", "uri": "a.1.flac", "t0_s": 0.5, "t1_s": 1.25}]},
  {"role": "assistant", "parts": ["Apfel"]}], "split": "train", "n": 3})";

Record parse(const std::string& text) {
  return parse_record(parse_json(text, "x.jsonl:7"), "x.jsonl:7");
}

TEST(RecordTest, ReadsEveryKindOfPart) {
  const Record record = parse(kSample);
  EXPECT_EQ(record.id, "a/1");
  EXPECT_EQ(record.lang, "de");
  EXPECT_EQ(record.label, "apple");
  ASSERT_EQ(record.messages.size(), 3u);
  const auto& parts = record.messages[1].parts;
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_TRUE(parts[0].is_media);
  EXPECT_EQ(parts[0].media.kind, Modality::kImage);
  EXPECT_EQ(parts[0].media.t1_s, -1.0);
  EXPECT_EQ(parts[1].text, "Was ist das?");
  EXPECT_EQ(parts[2].media.kind, Modality::kAudio);
  EXPECT_EQ(parts[2].media.t0_s, 0.5);
  EXPECT_EQ(parts[2].media.t1_s, 1.25);
  EXPECT_EQ(record.extra, Json::parse(R"({"split": "train", "n": 3})"));
}

TEST(RecordTest, WritesWhatItReads) {
  const Json written = to_json(parse(kSample));
  EXPECT_EQ(to_json(parse_record(written, "again")), written);
  EXPECT_EQ(written.at("messages")[1].at("parts")[2].at("t1_s"), 1.25);
  EXPECT_EQ(written.at("split"), "train");
}

TEST(RecordTest, NamesTheFault) {
  struct {
    const char* text;
    std::initializer_list<std::string_view> words;
  } const cases[] = {
      {R"([1])", {"x.jsonl:7", "object"}},
      {R"({"messages": [{"role": "user", "parts": ["a"]}]})", {"id"}},
      {R"({"id": "a"})", {"messages", "missing"}},
      {R"({"id": "a", "messages": []})", {"messages", "empty"}},
      {R"({"id": 3, "messages": []})", {"id", "number"}},
      {R"({"id": "a", "messages": [{"role": "robot", "parts": []}]})",
       {"messages[0].role", "robot"}},
      {R"({"id": "a", "messages": [{"role": "user"}]})", {"messages[0].parts", "missing"}},
      {R"({"id": "a", "messages": [{"role": "user", "parts": [1]}]})", {"messages[0].parts[0]"}},
      {R"({"id": "a", "messages": [{"role": "user", "parts": [], "name": "x"}]})",
       {"messages[0]", "name"}},
      {R"({"id": "a", "messages": [{"role": "user", "parts": ["a", {"kind": "smell", "uri": "x"}]}]})",
       {"messages[0].parts[1].kind", "image, audio or video", "smell"}},
      {R"({"id": "a", "messages": [{"role": "user", "parts": [{"kind": "image"}]}]})",
       {"parts[0].uri", "missing"}},
      {R"({"id": "a", "messages": [{"role": "user", "parts": [{"kind": "image", "uri": ""}]}]})",
       {"parts[0].uri"}},
      {R"({"id": "a", "messages": [{"role": "user", "parts": [{"kind": "image", "url": "x"}]}]})",
       {"parts[0]", "url"}},
      {R"({"id": "a", "messages": [{"role": "user", "parts": [{"kind": "audio", "uri": "x", "t0_s": 2, "t1_s": 1}]}]})",
       {"t1_s"}},
      {R"({"id": "a", "messages": [{"role": "user", "parts": [{"kind": "audio", "uri": "x", "t0_s": -1}]}]})",
       {"t0_s"}},
  };
  for (const auto& c : cases)
    EXPECT_TRUE((throws_with<DataError>([&] { parse(c.text); }, c.words))) << c.text;
}

}  // namespace
}  // namespace euromodal
