// gguf_test.cpp — GGUF files: numbers bit for bit as gguf.quants.dequantize reads them (goldens of
// make_gguf_goldens.py), headers that are broken in every way, tokenizers as those that they were
// made from.
#include "backbone/weights/gguf.h"

#include <functional>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "backbone/weights/chat_template.h"
#include "backbone/weights/safetensors.h"
#include "backbone/weights/tokenizer.h"
#include "core/error.h"
#include "tests/support/gguf_bytes.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

using nlohmann::json;
using testing_support::GgufBytes;
using Ids = std::vector<int64_t>;
using Words = std::initializer_list<std::string_view>;

const std::filesystem::path kGoldens = std::filesystem::path(EM_TEST_DIR) / "goldens/gguf";

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
         at::equal(a.contiguous().view(at::kInt), b.contiguous().view(at::kInt));
}

TEST(GgufTest, NumbersAreThoseOfTheReferenceBitForBit) {
  const GgufFile file(kGoldens / "blocks.gguf");
  const SafetensorsFile want(kGoldens / "blocks.safetensors");
  ASSERT_EQ(want.infos().size(), 11U);
  for (const TensorInfo& info : want.infos()) {
    SCOPED_TRACE(info.name);
    const GgufTensor* stored = file.find(info.name);
    ASSERT_NE(stored, nullptr);
    EXPECT_TRUE(ggml_readable(stored->type));
    EXPECT_EQ(ggml_block(stored->type)->name, info.name);
    const at::Tensor all = file.tensor(*stored, at::kFloat).to(at::kFloat);
    EXPECT_TRUE(same_bits(all, want.tensor(info)));
    const std::vector<int64_t> rows = {2, 0, 1};
    const at::Tensor moved = file.tensor(*stored, at::kFloat, rows).to(at::kFloat);
    EXPECT_TRUE(same_bits(moved, want.tensor(info).index_select(0, at::tensor(rows))));
    const at::Tensor bf16 = file.tensor(*stored, at::kBFloat16).to(at::kBFloat16);
    EXPECT_TRUE(at::equal(bf16, want.tensor(info).to(at::kBFloat16)));
  }
}

TEST(GgufTest, CodesAndScalesAreTheNumbers) {
  const GgufFile file(kGoldens / "blocks.gguf");
  const SafetensorsFile want(kGoldens / "blocks.safetensors");
  for (const std::string name : {"Q8_0", "Q4_0"}) {
    const std::vector<int64_t> rows = {1, 2, 0};
    const GgufCodes codes = file.codes(*file.find(name), rows);
    const at::Tensor numbers = (codes.codes_OI.to(at::kFloat) - (name == "Q8_0" ? 128 : 8)) *
                               codes.scales_OG.to(at::kFloat).repeat_interleave(32, 1);
    const at::Tensor expected =
        want.tensor(*want.find(name)).index_select(0, at::tensor(rows, at::kLong));
    EXPECT_TRUE(at::equal(numbers, expected));
  }
  EXPECT_THROW(file.codes(*file.find("Q4_1")), Error);
}

TEST(GgufTest, OtherTypesAreNamed) {
  const GgufFile file(kGoldens / "blocks.gguf");
  EXPECT_TRUE((throws_with<CheckpointError>(
      [&] { file.tensor(*file.find("Q2_K"), at::kFloat); },
      {"blocks.gguf", "tensor Q2_K", "type Q2_K", "Q4_K, Q5_K, Q6_K"})));
}

TEST(GgufTest, PlainTensorsAreMapped) {
  at::Tensor view;
  {
    const GgufFile file(kGoldens / "blocks.gguf");
    view = file.tensor(*file.find("F32"), at::kBFloat16);
    EXPECT_EQ(view.data_ptr(), file.tensor(*file.find("F32"), at::kFloat).data_ptr());
  }
  const at::Tensor copy = view.clone();  // the file object is gone, the mapping is not
  view.zero_();                          // and this stays in memory
  const GgufFile again(kGoldens / "blocks.gguf");
  EXPECT_TRUE(at::equal(again.tensor(*again.find("F32"), at::kFloat), copy));
}

TEST(GgufTest, ValuesAreTyped) {
  GgufBytes bytes;
  bytes.u32("a", 7).f32("b", 0.5F).boolean("c", true).text("d", "x").i32("minus", -1);
  const std::string whole = bytes.tensor("w", {2, 4}).finish();
  const GgufHeader header = parse_gguf_header(whole, "f.gguf");
  EXPECT_EQ(header.size("a"), 7);
  EXPECT_EQ(header.size("none", 3), 3);
  EXPECT_EQ(header.f64("b"), 0.5);
  EXPECT_EQ(header.f64("a"), 7.0);
  EXPECT_TRUE(header.boolean("c", false));
  EXPECT_EQ(header.str("d", ""), "x");
  ASSERT_EQ(header.tensors.size(), 1U);
  EXPECT_THAT(header.tensors[0].shape, testing::ElementsAre(4, 2));  // the file: reversed
  const auto fails = [&](const std::function<void()>& read, Words words) {
    EXPECT_TRUE(throws_with<CheckpointError>(read, words));
    EXPECT_TRUE(throws_with<CheckpointError>(read, {"f.gguf"}));
  };
  fails([&] { header.size("b"); }, {"key b", "whole number"});
  fails([&] { header.size("minus"); }, {"key minus", "-1"});
  fails([&] { header.size("none"); }, {"key none", "missing"});
  fails([&] { header.f64("d"); }, {"key d", "number"});
  fails([&] { header.boolean("a", false); }, {"key a", "true or false"});
  fails([&] { header.str("a", ""); }, {"key a", "text"});
  fails([&] { header.strings("d"); }, {"key d", "list of texts"});
  fails([&] { header.numbers("d"); }, {"key d", "list of numbers"});
}

TEST(GgufTest, TruncatedAnywhereIsAnError) {
  for (const char* name : {"blocks.gguf", "spm.gguf"}) {
    const std::string bytes = read_bytes(kGoldens / name);
    const GgufHeader header = parse_gguf_header(bytes, name);
    const uint64_t end = header.data_begin;
    // Padding behind the last tensor, or behind a header without tensors, may be missing.
    const size_t last = header.tensors.empty()
                            ? end - 32
                            : end + header.tensors.back().begin + header.tensors.back().bytes;
    for (size_t n = 0; n < last; n += n < 400 || n + 64 > end ? 1 : 37)
      EXPECT_THROW(parse_gguf_header(std::string_view(bytes).substr(0, n), name), CheckpointError)
          << name << " cut at " << n;
  }
}

TEST(GgufTest, BrokenHeadersAreNamed) {
  const auto fails = [](const std::string& bytes, Words words) {
    const auto parse = [&] { parse_gguf_header(bytes, "bad.gguf"); };
    EXPECT_TRUE(throws_with<CheckpointError>(parse, words));
    EXPECT_TRUE(throws_with<CheckpointError>(parse, {"bad.gguf"}));
  };
  const auto good = [] {
    GgufBytes out;
    out.text("general.architecture", "llama");
    return out;
  };
  EXPECT_NO_THROW(parse_gguf_header(good().tensor("w", {32, 2}).finish(), "good.gguf"));
  EXPECT_NO_THROW(parse_gguf_header(good().version(2).tensor("w", {32, 2}).finish(), "good.gguf"));

  std::string bytes = good().finish();
  bytes[0] = 'g';
  fails(bytes, {"gGUF", "expected 'GGUF'"});
  fails("", {"GGUF"});
  fails("GG", {"GGUF"});
  fails(good().version(1).finish(), {"version 1"});
  fails(good().version(4).finish(), {"version 4"});
  fails(good().version(3U << 24).finish(), {"big-endian"});
  constexpr uint64_t kHuge = uint64_t{1} << 60;
  fails(good().counts(kHuge, 1).finish(), {"tensors", "do not fit"});
  fails(good().counts(0, ~uint64_t{0}).finish(), {"keys", "do not fit"});
  fails(good().text_length("k", ~uint64_t{0}).finish(), {"key k", "takes 18446744073709551615"});
  fails(good().array("k", 4, kHuge).finish(), {"key k", "do not fit"});
  fails(good().array("k", 8, kHuge).finish(), {"key k", "do not fit"});
  fails(good().array("k", 9, 1).finish(), {"key k", "lists of lists"});
  fails(good().array("k", 13, 1).finish(), {"key k", "unknown type of value 13"});
  fails(good().u32("general.architecture", 1).finish(), {"general.architecture", "twice"});
  fails(good().u32("", 1).finish(), {"is empty"});
  fails(good().u32("general.alignment", 0).tensor("w", {4}).finish(),
        {"alignment", "power of two"});
  fails(good().u32("general.alignment", 24).tensor("w", {4}).finish(), {"alignment", "24"});
  fails(good().text("general.alignment", "x").tensor("w", {4}).finish(), {"alignment", "number"});

  fails(good().tensor("", {4}).finish(), {"no name"});
  fails(good().tensor("w", {4}).tensor("w", {4}).finish(), {"tensor w", "twice"});
  fails(good().tensor("w", {}).finish(), {"tensor w", "0 dimensions"});
  fails(good().tensor("w", {1, 1, 1, 1, 1}).finish(), {"tensor w", "5 dimensions"});
  fails(good().tensor("w", {4, 0}).finish(), {"tensor w", "dimension 1 is 0"});
  fails(good().tensor("w", {kHuge, kHuge}).finish(), {"tensor w", "overflows"});
  fails(good().tensor("w", {kHuge, 4}).finish(), {"tensor w", "overflows"});
  fails(good().tensor("w", {4}, {.type = 77}).finish(), {"tensor w", "unknown type of numbers 77"});
  fails(good().tensor("w", {33}, {.type = 8}).finish(), {"tensor w", "33", "blocks of 32", "Q8_0"});
  fails(good().tensor("w", {4}, {.offset = 16}).finish(), {"tensor w", "offset 16", "alignment"});
  fails(good().tensor("w", {4}, {.offset = 1 << 20}).finish(), {"tensor w", "lie outside"});
  fails(good().tensor("w", {4}, {.offset = ~uint64_t{31}}).finish(), {"tensor w", "lie outside"});
  fails(good().tensor("v", {16}).tensor("w", {16}, {.offset = 32}).finish(), {"v", "w", "overlap"});
  fails(good().tensor("v", {16}).tensor("w", {4}, {.offset = 0}).finish(), {"v", "w", "overlap"});
}

json golden_cases(const std::string& file) {
  static const json all = json::parse(read_bytes(kGoldens / "tokenizers.json"));
  json out = json::array();
  for (const json& entry : all) {
    if (entry.at("file") == file) out.push_back(entry);
  }
  return out;
}

class GgufTokenizerTest : public testing::TestWithParam<const char*> {};

TEST_P(GgufTokenizerTest, IdsAndTextsAreThoseOfTheTokenizerThatItWasMadeFrom) {
  const auto tokenizer = Tokenizer::load(kGoldens / (std::string(GetParam()) + ".gguf"));
  const json cases = golden_cases(GetParam());
  ASSERT_GT(cases.size(), 50U);
  for (const json& entry : cases) {
    const auto text = entry.at("text").get<std::string>();
    const Ids full = entry.at("full").get<Ids>();
    EXPECT_EQ(tokenizer->encode(text, EncodeMode::kFull), full) << text;
    EXPECT_EQ(tokenizer->encode(text, EncodeMode::kNoSpecial), entry.at("bare").get<Ids>()) << text;
    EXPECT_EQ(tokenizer->decode(full, false), entry.at("decoded").get<std::string>()) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufTokenizerTest,
                         testing::Values("spm", "spm_no_prefix", "llama_bpe", "gpt_2", "default"),
                         [](const auto& info) { return std::string(info.param); });

/// A vocabulary of the kind "llama" with faults that the caller writes behind it.
GgufBytes small_vocabulary(const std::vector<std::string>& tokens = {"<unk>", "<s>", "</s>", "a"}) {
  GgufBytes out;
  out.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", tokens);
  return out;
}

TEST(GgufTokenizerFaultsTest, AreNamed) {
  const TempDir dir;
  const auto fails = [&](const GgufBytes& bytes, Words words) {
    dir.write("t.gguf", bytes.finish());
    const auto load = [&] { Tokenizer::load(dir / "t.gguf"); };
    EXPECT_TRUE(throws_with<CheckpointError>(load, words));
    EXPECT_TRUE(throws_with<CheckpointError>(load, {"t.gguf"}));
  };
  const std::vector<float> four = {0, 0, 0, 0};
  dir.write("t.gguf", small_vocabulary().f32s("tokenizer.ggml.scores", four).finish());
  EXPECT_EQ(Tokenizer::load(dir.path())->size(), 4);  // the folder's only GGUF file
  fails(GgufBytes().text("general.architecture", "llama"), {"no tokenizer"});
  fails(small_vocabulary(), {"scores", "missing"});
  fails(small_vocabulary().f32s("tokenizer.ggml.scores", {0, 0}), {"scores", "2 entries", "4"});
  fails(small_vocabulary().f32s("tokenizer.ggml.scores", {0, 0, 0, NAN}), {"scores", "number"});
  fails(small_vocabulary({"a", "b", "a"}), {"tokens", "twice"});
  fails(small_vocabulary({"a", "\xFF"}), {"tokens", "UTF-8"});
  fails(small_vocabulary().f32s("tokenizer.ggml.token_type", {1, 2}), {"token_type", "2 entries"});
  fails(small_vocabulary().f32s("tokenizer.ggml.token_type", {1, 2, 3, 9}), {"token_type", "9"});
  fails(small_vocabulary().u32("tokenizer.ggml.bos_token_id", 4), {"bos_token_id", "4 tokens"});
  const auto gpt2 = [] {
    return GgufBytes().text("tokenizer.ggml.model", "gpt2").texts("tokenizer.ggml.tokens", {"a"});
  };
  fails(gpt2(), {"merges", "missing"});
  fails(gpt2().text("tokenizer.ggml.pre", "qwen2"), {"tokenizer.ggml.pre", "qwen2", "llama-bpe"});
  fails(gpt2().texts("tokenizer.ggml.merges", {"a b"}), {"merge", "b", "vocabulary"});
  fails(gpt2().texts("tokenizer.ggml.merges", {}).boolean("tokenizer.ggml.add_bos_token", true),
        {"add_bos_token", "bos_token_id is missing"});
  fails(GgufBytes().text("tokenizer.ggml.model", "bert").texts("tokenizer.ggml.tokens", {"a"}),
        {"tokenizer.ggml.model", "bert", "gpt2"});
}

TEST(GgufChatTest, TemplateIsThatOfTheFile) {
  const TempDir dir;
  const auto write = [&](const GgufBytes& bytes) { dir.write("c.gguf", bytes.finish()); };
  const std::vector<ChatMessage> messages = {{"user", "Hi"}};
  const std::vector<float> scores = {0, 0, 0, 0, 0};
  const auto chatml = [&] {
    return small_vocabulary({"<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"})
        .f32s("tokenizer.ggml.scores", scores);
  };
  const std::string text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
  write(chatml());
  EXPECT_EQ(ChatTemplate::load(dir.path()).render_text(messages, true), text);
  write(chatml().text("tokenizer.chat_template",
                      "{{ bos_token }}" + std::string(ChatTemplate::chatml_jinja())));
  const ChatTemplate with_bos = ChatTemplate::load(dir / "c.gguf");
  EXPECT_TRUE(with_bos.writes_bos());
  EXPECT_EQ(with_bos.render_text(messages, true), "<s>" + text);
  write(chatml().text("tokenizer.chat_template", "[INST]"));
  EXPECT_TRUE((throws_with<ConfigError>([&] { ChatTemplate::load(dir / "c.gguf"); },
                                        {"c.gguf", "not ChatML"})));
  write(small_vocabulary().f32s("tokenizer.ggml.scores", {0, 0, 0, 0}));
  EXPECT_TRUE((throws_with<ConfigError>([&] { ChatTemplate::load(dir / "c.gguf"); },
                                        {"c.gguf", "tokenizer.chat_template"})));
}

}  // namespace
}  // namespace euromodal
