// grammar_test.cpp — regular expressions against Python's re (goldens/regex.json), JSON schemas,
// and both applied to a vocabulary.
#include "inference/grammar/grammar.h"

#include <cmath>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/json.h"
#include "inference/grammar/automaton.h"
#include "inference/grammar/json_schema.h"
#include "inference/grammar/regex.h"
#include "inference/grammar/token_grammar.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

bool accepts(GrammarAutomaton& automaton, const std::string& text) {
  GrammarAutomaton::State state = automaton.start();
  for (const char c : text) {
    state = automaton.step(state, static_cast<unsigned char>(c));
    if (state == GrammarAutomaton::kDead) return false;
  }
  return automaton.may_end(state);
}

GrammarAutomaton regex(const std::string& pattern) {
  Grammar grammar;
  grammar.start = add_regex(grammar, pattern);
  return GrammarAutomaton(std::move(grammar));
}

GrammarAutomaton schema(const std::string& text) {
  return GrammarAutomaton(json_schema_grammar(parse_json(text, "schema"), "schema"));
}

TEST(RegexTest, MatchesWhatPythonsReMatches) {
  const Json cases = read_json(EM_TEST_DIR "/goldens/regex.json");
  ASSERT_EQ(cases.size(), 28U);
  for (const Json& golden : cases) {
    const auto pattern = golden["pattern"].get<std::string>();
    GrammarAutomaton automaton = regex(pattern);
    for (const Json& text : golden["matches"])
      EXPECT_TRUE(accepts(automaton, text.get<std::string>())) << pattern << " on " << text;
    for (const Json& text : golden["others"])
      EXPECT_FALSE(accepts(automaton, text.get<std::string>())) << pattern << " on " << text;
  }
}

TEST(RegexTest, LargeRepetitionsAndNestedStars) {
  GrammarAutomaton automaton = regex("((a*)*b{0,900}){2,3}");
  EXPECT_TRUE(accepts(automaton, std::string(500, 'a') + std::string(1800, 'b')));
  EXPECT_FALSE(accepts(automaton, "c"));
}

TEST(RegexTest, BrokenPatternsNamePatternAndPlace) {
  for (const auto& [pattern, word] :
       std::vector<std::pair<std::string, std::string>>{{"(a", "has no )"},
                                                        {"a)", "without its ("},
                                                        {"[a", "has no ]"},
                                                        {"*a", "before the repetition"},
                                                        {"a{3,2}", "m <= n"},
                                                        {"a{99999}", "4096"},
                                                        {"(?=a)", "(?"},
                                                        {"a\\b", "escape"},
                                                        {"(a)\\1", "escape"},
                                                        {"a^b", "beginning"},
                                                        {"a$b", "end"},
                                                        {"[z-a]", "range"},
                                                        {"a\\", "too early"},
                                                        {"\xFF", "UTF-8"}}) {
    EXPECT_TRUE(
        throws_with<ConfigError>([&] { (void)regex(pattern); }, {"regular expression", word}))
        << pattern;
  }
}

TEST(SchemaTest, ObjectsHoldTheirPropertiesInOrder) {
  GrammarAutomaton automaton = schema(R"({"type": "object", "properties": {
      "name": {"type": "string", "minLength": 1, "maxLength": 3}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
      "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}}, "required": ["name", "age"]})");
  for (const char* good :
       {R"({"name":"é\n","age":7})", R"({"name": "abc", "age": 120, "tags": ["a", "b"]})",
        R"({"name":"a","age":0,"tags":[]})", "{\n  \"name\": \"a\",\n  \"age\": 3\n}"})
    EXPECT_TRUE(accepts(automaton, good)) << good;
  for (const char* bad :
       {R"({"age":7,"name":"a"})", R"({"name":"a"})", R"({"name":"","age":7})",
        R"({"name":"abcd","age":7})", R"({"name":"a","age":121})", R"({"name":"a","age":-1})",
        R"({"name":"a","age":07})", R"({"name":"a","age":7,"tags":["a","b","a"]})",
        R"({"name":"a","age":7,"tags":["c"]})", R"({"name":"a","age":7,"x":1})",
        R"({"name":"a","age":7,})", R"({"name":"a" "age":7})", ""})
    EXPECT_FALSE(accepts(automaton, bad)) << bad;
}

TEST(SchemaTest, IntegerRangesAreExact) {
  for (const auto& [least, most] : std::vector<std::pair<int, int>>{{0, 0},
                                                                    {0, 9},
                                                                    {1, 10},
                                                                    {7, 123},
                                                                    {99, 101},
                                                                    {-5, 5},
                                                                    {-120, -7},
                                                                    {-1, 0},
                                                                    {200, 1000}}) {
    GrammarAutomaton automaton =
        schema(fmt::format(R"({{"type": "integer", "minimum": {}, "maximum": {}}})", least, most));
    for (int value = -1100; value <= 1100; ++value)
      EXPECT_EQ(accepts(automaton, std::to_string(value)), least <= value && value <= most)
          << value << " in " << least << ".." << most;
  }
  GrammarAutomaton open = schema(R"({"type": "integer", "minimum": 18})");
  EXPECT_TRUE(accepts(open, "18") && accepts(open, "123456789012345678"));
  EXPECT_FALSE(accepts(open, "17") || accepts(open, "-18") || accepts(open, "1.5"));
}

TEST(SchemaTest, EveryJsonIsAnyJson) {
  GrammarAutomaton automaton = schema("{}");
  for (const char* good : {R"({"a": [1, -2.5e-3, true, null, {"b": []}], "c": "\u00e9\"\\"})", "[]",
                           "\"日本\"", "0", "-0.5", "{}", "[[[[{}]]]]"}) {
    EXPECT_TRUE(accepts(automaton, good)) << good;
    (void)parse_json(good, "JSON");
  }
  for (const char* bad : {"01", "[1,]", "{\"a\"}", "tru", "\"a\nb\"", "'a'", "1 2", "\"\\x\""})
    EXPECT_FALSE(accepts(automaton, bad)) << bad;
}

TEST(SchemaTest, CombinationsReferencesAndFormats) {
  GrammarAutomaton tree = schema(R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
      "properties": {"v": {"type": ["integer", "null"]}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"const": 0}]}}, "required": ["v", "next"]}}})");
  EXPECT_TRUE(accepts(tree, R"({"v":1,"next":{"v":null,"next":{"v":3,"next":0}}})"));
  EXPECT_FALSE(accepts(tree, R"({"v":1,"next":{"v":null,"next":{"v":3,"next":0}})"));
  GrammarAutomaton tuple = schema(
      R"({"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": {"type": "integer"}, "minItems": 1})");
  for (const char* good : {"[true]", "[true,null]", "[false, null, 4, 5]"})
    EXPECT_TRUE(accepts(tuple, good)) << good;
  for (const char* bad : {"[]", "[null]", "[true,4]", "[true,null,true]", "[true,]"})
    EXPECT_FALSE(accepts(tuple, bad)) << bad;
  GrammarAutomaton many =
      schema(R"({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3})");
  EXPECT_FALSE(accepts(many, "[true]"));
  EXPECT_TRUE(accepts(many, "[true,false]") && accepts(many, "[true,false,true]"));
  EXPECT_FALSE(accepts(many, "[true,false,true,true]"));
  GrammarAutomaton date = schema(R"({"type": "string", "format": "date"})");
  EXPECT_TRUE(accepts(date, "\"2026-11-26\""));
  EXPECT_FALSE(accepts(date, "\"2026-13-26\""));
  GrammarAutomaton extra = schema(
      R"({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "boolean"}})");
  for (const char* good :
       {"{}", R"({"a":null})", R"({"a":null,"x":true})", R"({"x":true,"y":false})"})
    EXPECT_TRUE(accepts(extra, good)) << good;
  EXPECT_FALSE(accepts(extra, R"({"x":1})"));
}

TEST(SchemaTest, WhatAGrammarCannotHoldIsNamed) {
  for (const auto& [text, word] : std::vector<std::pair<std::string, std::string>>{
           {R"({"type": "object", "patternProperties": {}})", "patternProperties"},
           {R"({"type": "number", "multipleOf": 2})", "multipleOf"},
           {R"({"type": "text"})", "unknown type text"},
           {R"({"type": "array", "uniqueItems": true})", "uniqueItems"},
           {R"({"$ref": "#/$defs/x"})", "leads nowhere"},
           {R"({"$ref": "other.json"})", "not inside"},
           {R"({"type": "object", "properties": {"a": {"type": "strin"}}})", "#/properties/a"},
           {R"({"type": "object", "required": ["b"]})", "\"b\""},
           {R"({"type": "integer", "minimum": 3, "maximum": 2})", "above"},
           {R"({"type": "string", "format": "colour"})", "colour"},
           {R"([])", "expected an object"},
           {R"({"allOf": [{}, {}]})", "allOf"}}) {
    EXPECT_TRUE(throws_with<ConfigError>([&] { (void)schema(text); }, {"schema", word})) << text;
  }
  EXPECT_TRUE(throws_with<ConfigError>([] { (void)schema(R"({"$ref": "#"})"); }, {"no text"}));
}

class TokenGrammarTest : public testing::Test {
 protected:
  std::shared_ptr<const Tokenizer> tokenizer_ =
      Tokenizer::load(EM_SOURCE_DIR "/configs/nano/tokenizer");
};

TEST_F(TokenGrammarTest, BytesOfTokensJoinedAreTheText) {
  for (const char* text : {"balena, tromba", "Ελληνικά és ärger", "日本 🙂!"}) {
    std::string joined;
    for (int64_t id : tokenizer_->encode(text, EncodeMode::kContinuation))
      joined += tokenizer_->bytes_of(id);
    EXPECT_EQ(joined, text);
  }
  EXPECT_EQ(tokenizer_->bytes_of(tokenizer_->id_of("<|im_end|>").value()), "");
}

TEST_F(TokenGrammarTest, LetsThroughWhatKeepsTheTextInTheLanguage) {
  Grammar grammar;
  grammar.start = add_regex(grammar, "(balena|tromba)( é日)?");
  TokenGrammar tokens(std::move(grammar), tokenizer_);
  const int64_t stop = tokenizer_->id_of("<|im_end|>").value();
  const std::vector<int64_t> stops = {stop};
  auto state = tokens.start();
  std::string text;
  for (int step = 0; step < 40; ++step) {  // always the last token that may come: never the stop
    std::vector<float> logits(static_cast<size_t>(tokenizer_->size()), 0.0F);
    tokens.mask(logits, state, stops);
    EXPECT_EQ(std::isfinite(logits[static_cast<size_t>(stop)]),
              text == "balena" || text == "tromba" || text.ends_with("日"))
        << text;
    int64_t chosen = -1;
    for (size_t v = 0; v < logits.size(); ++v)
      if (std::isfinite(logits[v]) && static_cast<int64_t>(v) != stop)
        chosen = static_cast<int64_t>(v);
    if (chosen < 0) break;
    text += tokenizer_->bytes_of(chosen);
    state = tokens.advance(state, chosen, stops);
  }
  EXPECT_TRUE(tokens.complete(state));
  EXPECT_TRUE(text == "balena é日" || text == "tromba é日") << text;
  EXPECT_TRUE(throws_with<Error>([&] { (void)tokens.advance(tokens.start(), stop - 1, stops); },
                                 {"token id"}));
}

}  // namespace
}  // namespace euromodal
