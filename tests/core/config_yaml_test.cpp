// config_yaml_test.cpp — a dump reads back to the same tree: odd YAML, odd text in every place, and
// random trees of such text.
#include <array>

#include <gtest/gtest.h>

#include "core/config_tree.h"
#include "core/rng.h"

namespace euromodal {
namespace {

using Impl = Config::Impl;

/// "": reads back; otherwise what is wrong.
std::string round_trip_fault(const Impl& tree) {
  const std::string dump = config_yaml(tree);
  try {
    const ConfigNode again = config_read(dump, "dump");
    if (!config_same(tree, *again)) return "another tree: " + dump;
    if (config_yaml(*again) != dump) return "another dump: " + dump;
  } catch (const ConfigError& e) {
    return std::string(e.what()) + ": " + dump;
  }
  return "";
}

// Text that plain YAML would take for something else, fold, or refuse.
constexpr std::array kOddTexts = {
    "",
    " ",
    "  a",
    "a  ",
    "a  b",
    "~",
    "null",
    "Null",
    "NULL",
    "nUll",
    "true",
    "false",
    "yes",
    "off",
    "1",
    "-1",
    "+1",
    "0x1F",
    "0o17",
    "017",
    "1e3",
    ".5",
    ".inf",
    ".nan",
    "1_000",
    "2001-12-14",
    "12:30:45",
    "1.5e",
    "-",
    "--",
    "---",
    "--- a",
    "...",
    "... a",
    "- a",
    "-a",
    "?",
    "? a",
    "?a",
    ":",
    ": a",
    ":a",
    "a:",
    "a: b",
    "a:b",
    "a:,b",
    "http://x:80",
    "#",
    "# a",
    "a #b",
    "a#b",
    "a# b",
    "&a",
    "*a",
    "a*b",
    "!a",
    "!!str 1",
    "%a",
    "@a",
    "`a",
    "|",
    "| a",
    ">",
    "> a",
    "[",
    "[a]",
    "]",
    "a]",
    "a]b",
    "{",
    "{a: b}",
    "${A}/x",
    "}",
    ",",
    "a,b",
    "a, b",
    "\"",
    "\"a\"",
    "'",
    "'a'",
    "it's",
    "a\"b",
    "\\",
    "\\n",
    "a\\",
    "\n",
    "a\n",
    "\na",
    "a\nb",
    "a\n\nb\n",
    "a\n b",
    "\t",
    "a\tb",
    "\ta",
    "a\t",
    "\r",
    "a\r\nb",
    "\x01",
    "\x1B[0m",
    "\x7F",
    "<<",
    "=",
    "include",
    "a b c",
    "(a)",
    "\xC2\x85",
    "\xC2\xA0",
    "\xC2\x80",
    "\xC3\xA9",
    "\xE2\x80\xA8",
    "\xE2\x80\xA9",
    "\xEF\xBB\xBF",
    "\xEF\xBF\xBE",
    "\xEF\xBF\xBF",
    "\xEF\xB7\x90",
    "\xEF\xBF\xBD",
    "\xF0\x9F\x98\x80",
    "\xF0\x9F\xBF\xBE",
    "\xF4\x8F\xBF\xBF",
    "\xE0\xBD\x80 \xE1\x9A\x80",
    "a\xEF\xBB\xBF"
    "b",
    "long word long word long word long word long word long word long word long word long word"};

ConfigNode yaml_scalar(const std::string& text, bool quoted) {
  auto out = std::make_shared<Impl>();
  out->kind = Impl::Kind::kScalar;
  out->scalar = text;
  out->quoted = quoted;
  return out;
}

ConfigNode yaml_branch(Impl::Kind kind) {
  auto out = std::make_shared<Impl>();
  out->kind = kind;
  return out;
}

std::vector<std::string> odd_texts() {
  std::vector<std::string> out(kOddTexts.begin(), kOddTexts.end());
  out.emplace_back(1, '\0');
  out.push_back(std::string("a\0b", 3));
  for (int byte = 1; byte < 128; ++byte) {
    const std::string c(1, static_cast<char>(byte));
    for (const std::string& text :
         {c, c + "a", "a" + c, "a" + c + "b", c + " a", "a " + c, "a" + c + " b"})
      out.push_back(text);
  }
  return out;
}

TEST(ConfigYamlTest, EveryTextInEveryPlace) {
  for (const std::string& text : odd_texts()) {
    for (const bool quoted : {false, true}) {
      const ConfigNode root = yaml_branch(Impl::Kind::kMap), flat = yaml_branch(Impl::Kind::kList),
                       list = yaml_branch(Impl::Kind::kList), map = yaml_branch(Impl::Kind::kMap);
      const ConfigNode one = yaml_scalar(text, quoted);
      flat->entries = {{"", one}, {"", one}};
      map->entries = {{text == "include" ? "b" : text, one}, {"second key", one}};
      list->entries = {{"", one}, {"", map}, {"", flat}, {"", one}};
      root->entries = {{"a", one}, {"flat", flat}, {"list", list}, {"map", map}};
      EXPECT_EQ(round_trip_fault(*root), "");
    }
  }
}

ConfigNode random_tree(Rng& rng, const std::vector<std::string>& texts, int depth) {
  const auto text = [&] { return texts[rng.below(texts.size())]; };
  const uint64_t kind = rng.below(depth == 0 ? 3 : 6);
  if (kind == 0) return yaml_branch(Impl::Kind::kNull);
  if (kind <= 2) return yaml_scalar(text(), kind == 2);
  const ConfigNode out = yaml_branch(kind == 3 ? Impl::Kind::kList : Impl::Kind::kMap);
  for (uint64_t i = rng.below(4); i > 0; --i) {
    std::string key = out->kind == Impl::Kind::kMap ? text() : "";
    if (key == "include" || (out->kind == Impl::Kind::kMap && out->find(key))) continue;
    out->entries.emplace_back(std::move(key), random_tree(rng, texts, depth - 1));
  }
  return out;
}

TEST(ConfigYamlTest, RandomTrees) {
  const std::vector<std::string> texts = odd_texts();
  Rng rng(7);
  for (int i = 0; i < 2000; ++i) {
    const ConfigNode root = yaml_branch(Impl::Kind::kMap);
    for (int k = 0; k < 3; ++k)
      root->entries.emplace_back(std::string(1, static_cast<char>('a' + k)),
                                 random_tree(rng, texts, 5));
    ASSERT_EQ(round_trip_fault(*root), "");
  }
}

TEST(ConfigYamlTest, OddDocuments) {
  for (const char* text :
       {"{}", "a:", "a: ~\nb: null\nc: 'null'\n", "a: !!str null\nb: !!str 1\n", "a: {}\nb: []\n",
        "a: |\n  x\n   y\n\nb: >-\n  x\n  y\nc: |+\n  x\n\n", "a: x\n  y\n\n  z\n",
        "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2\n", "? 'a: b'\n: 1\n", "\"a\\nb\": 1\n",
        "a: [[1, [2]], {b: [~]}]\n", "- : 1\n", "'': ''\n", "a: - b\n", "a: 2001-12-14\nb: 0x1F\n",
        "a:\n- - - x\n    - y\n- {}\n- []\n", "%YAML 1.2\n---\na: 1\n...\n", "a: 'it''s'\n"}) {
    ConfigNode tree;
    try {
      tree = config_read(text, "odd");
    } catch (const ConfigError&) {
      continue;  // some are refused
    }
    EXPECT_EQ(round_trip_fault(*tree), "") << text;
  }
}

TEST(ConfigYamlTest, TypesSurvive) {
  const Config c = Config::parse(
      "plain: 1\nquoted: '1'\ntagged: !!str 1\nyes: true\nword: 'true'\nnothing: null\nname: "
      "'null'\nlines: |\n  a\n  b\n");
  const Config again = Config::parse(c.dump());
  EXPECT_EQ(again.i64("plain"), 1);
  EXPECT_THROW((void)again.i64("quoted"), ConfigError);
  EXPECT_THROW((void)again.i64("tagged"), ConfigError);
  EXPECT_TRUE(again.boolean("yes"));
  EXPECT_THROW((void)again.boolean("word"), ConfigError);
  EXPECT_FALSE(again.has("nothing"));
  EXPECT_EQ(again.str("name"), "null");
  EXPECT_EQ(again.str("lines"), "a\nb\n");
}

// What people read in a run's folder stays plain.
TEST(ConfigYamlTest, CommonTextIsPlain) {
  const std::string text =
      "run:\n  dir: ${HOME}/runs/a b\n  lr: 1e-3\nlist: [1, -2, a/b.c]\nmaps:\n  - x: 1\n    y: "
      "~\n  - {}\n";
  EXPECT_EQ(Config::parse(text).dump(), text);
}

}  // namespace
}  // namespace euromodal
