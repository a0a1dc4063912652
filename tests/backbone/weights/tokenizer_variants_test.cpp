// Tokenizer pipelines that differ in one thing each, and tokenizer.model alone, against
// transformers (goldens of make_variant_goldens.py).
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "backbone/weights/tokenizer.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

using nlohmann::json;
using Ids = std::vector<int64_t>;

const std::filesystem::path kGoldens = std::filesystem::path(EM_TEST_DIR) / "goldens";

/// `cases`: for each text [ids, ids without special tokens, text, text without special tokens];
/// null: as the one before.
void expect_cases(const Tokenizer& tokenizer, const json& texts, const json& cases) {
  ASSERT_EQ(texts.size(), cases.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    SCOPED_TRACE("text \"" + text + "\"");
    const json& one = cases[i];
    if (one.is_null()) continue;
    const Ids full = one[0].get<Ids>(), bare = one[1].is_null() ? full : one[1].get<Ids>();
    EXPECT_EQ(tokenizer.encode(text, EncodeMode::kFull), full);
    EXPECT_EQ(tokenizer.encode(text, EncodeMode::kNoSpecial), bare);
    if (!one[2].is_null()) {
      EXPECT_EQ(tokenizer.decode(full, false), one[2].get<std::string>());
    }
    EXPECT_EQ(tokenizer.decode(full, true), one[one[3].is_null() ? 2 : 3].get<std::string>());
  }
}

class TokenizerVariantsTest : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerVariantsTest, AreReadAsTransformersReadsThem) {
  const json goldens = json::parse(read_bytes(kGoldens / GetParam()));
  ASSERT_GT(goldens.at("variants").size(), 30U);
  for (const json& variant : goldens.at("variants")) {
    SCOPED_TRACE(variant.at("name").get<std::string>());
    TempDir dir;
    json file = variant.at("parts");
    file["model"] = goldens.at("model");
    dir.write("tokenizer.json", file.dump());
    dir.write("tokenizer_config.json", variant.at("config").dump());
    expect_cases(*Tokenizer::load(dir.path()), goldens.at("texts"), variant.at("cases"));
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerVariantsTest,
                         testing::Values("variants_text.json", "variants_tokens.json"),
                         [](const auto& info) {
                           const std::string name = info.param;
                           return name.substr(0, name.find('.'));
                         });

TEST(SentencePieceTest, ModelAloneIsReadAsTransformersReadsIt) {
  const json goldens = json::parse(read_bytes(kGoldens / "spm/cases.json"));
  ASSERT_EQ(goldens.at("variants").size(), 9U);
  for (const json& variant : goldens.at("variants")) {
    SCOPED_TRACE(variant.at("config").dump());
    TempDir dir;
    dir.write("tokenizer.model", read_bytes(kGoldens / "spm/tokenizer.model"));
    dir.write("tokenizer_config.json", variant.at("config").dump());
    expect_cases(*Tokenizer::load(dir.path()), goldens.at("texts"), variant.at("cases"));
  }
}

}  // namespace
}  // namespace euromodal
