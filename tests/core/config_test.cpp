// config_test.cpp — strict YAML: types, includes, overrides, unknown keys, and where errors point.
#include "core/config.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class ConfigTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::path(testing::TempDir()) /
           ("config_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  fs::path write(const std::string& name, const std::string& text) {
    std::ofstream(dir_ / name) << text;
    return dir_ / name;
  }
  template <typename F>
  static std::string error_of(F call) {
    try {
      call();
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "no error";
  }
  fs::path dir_;
};

TEST_F(ConfigTest, ReadsEveryType) {
  const Config c =
      Config::parse("a: 3\nb: 2.5e-3\nc: true\nd: word\ne: [x, y]\nf: [1, 2.5]\ng: {h: 1}\n");
  EXPECT_EQ(c.i64("a"), 3);
  EXPECT_DOUBLE_EQ(c.f64("b"), 0.0025);
  EXPECT_TRUE(c.boolean("c"));
  EXPECT_EQ(c.str("d"), "word");
  EXPECT_THAT(c.strs("e"), testing::ElementsAre("x", "y"));
  EXPECT_THAT(c.f64s("f"), testing::ElementsAre(1.0, 2.5));
  EXPECT_EQ(c.child("g").i64("h"), 1);
  EXPECT_NO_THROW(c.finish());
}

TEST_F(ConfigTest, ErrorsNameFileLineAndKey) {
  const fs::path file = write("run.yaml", "optimizer:\n  lr: fast\n  steps: 1.5\n");
  const Config c = Config::load(file);
  EXPECT_EQ(error_of([&] { (void)c.child("optimizer").f64("lr"); }),
            file.string() + ":2: optimizer.lr: expected a number, got 'fast'");
  EXPECT_THAT(error_of([&] { (void)c.child("optimizer").i64("steps"); }),
              testing::HasSubstr(":3: optimizer.steps: expected a whole number"));
  EXPECT_THAT(error_of([&] { (void)c.child("optimizer").i64("warmup"); }),
              testing::HasSubstr("optimizer.warmup: is missing"));
}

TEST_F(ConfigTest, FinishNamesTheFirstUnreadKeyAtAnyDepth) {
  const Config c = Config::parse("a: 1\nb:\n  c: 2\n  speling: 3\n", "f.yaml");
  (void)c.i64("a");
  (void)c.child("b").i64("c");
  EXPECT_EQ(error_of([&] { c.finish(); }), "f.yaml:4: b.speling: unknown key");
}

TEST_F(ConfigTest, QuotedNumbersAreStrings) {
  const Config c = Config::parse("a: \"3\"\n");
  EXPECT_THAT(error_of([&] { (void)c.i64("a"); }), testing::HasSubstr("expected a whole number"));
  EXPECT_EQ(c.str("a"), "3");
}

TEST_F(ConfigTest, IncludesMergeDeeplyAndKeepTheirFileInErrors) {
  const fs::path base = write("base.yaml", "lr: 0.1\nnested: {x: 1, y: oops}\n");
  const fs::path file = write("run.yaml", "optimizer:\n  include: base.yaml\n  nested: {x: 7}\n");
  const Config c = Config::load(file).child("optimizer");
  EXPECT_DOUBLE_EQ(c.f64("lr"), 0.1);
  EXPECT_EQ(c.child("nested").i64("x"), 7);
  EXPECT_THAT(error_of([&] { (void)c.child("nested").i64("y"); }),
              testing::HasSubstr("base.yaml:2: optimizer.nested.y"));
}

TEST_F(ConfigTest, IncludeLoopsAndMissingFilesAreErrors) {
  const fs::path loop = write("loop.yaml", "a: {include: loop.yaml}\n");
  EXPECT_THAT(error_of([&] { (void)Config::load(loop); }),
              testing::HasSubstr("include each other"));
  const fs::path gone = write("gone.yaml", "a:\n  include: nowhere.yaml\n");
  EXPECT_THAT(error_of([&] { (void)Config::load(gone); }), testing::HasSubstr("nowhere.yaml"));
  EXPECT_THAT(error_of([&] { (void)Config::load(dir_ / "absent.yaml"); }),
              testing::HasSubstr("absent.yaml"));
}

TEST_F(ConfigTest, OverridesReplaceAddAndReachIntoLists) {
  const fs::path file = write("run.yaml", "a: {b: 1}\ndata:\n  - {path: x}\n  - {path: y}\n");
  const Config c = Config::load(file, {"a.b=2", "a.new.deep=3", "data.1.path=z"});
  EXPECT_EQ(c.child("a").i64("b"), 2);
  EXPECT_EQ(c.child("a").child("new").i64("deep"), 3);
  EXPECT_EQ(c.list("data")[1].str("path"), "z");
  EXPECT_THAT(error_of([&] { (void)Config::load(file, {"a"}); }),
              testing::HasSubstr("expected key=value"));
  EXPECT_THAT(error_of([&] { (void)Config::load(file, {"a.b.c=1"}); }),
              testing::HasSubstr("not a map"));
  EXPECT_THAT(error_of([&] { (void)Config::load(file, {"data.5.path=1"}); }),
              testing::HasSubstr("list of 2 entries"));
  EXPECT_THAT(error_of([&] { (void)Config::load(file, {"a.include=x.yaml"}); }),
              testing::HasSubstr("files are included by files"));
}

TEST_F(ConfigTest, DumpReadsBackToTheSame) {
  const Config c = Config::load(
      write("run.yaml", "a: {b: 1, c: \"2\"}\nlist: [1, 2]\nmaps: [{x: 1}]\n"), {"a.b=5"});
  const Config again = Config::parse(c.dump());
  EXPECT_EQ(again.dump(), c.dump());
  EXPECT_EQ(again.child("a").i64("b"), 5);
  EXPECT_EQ(again.child("a").str("c"), "2");
}

TEST_F(ConfigTest, DuplicateKeysAndBrokenYamlAreErrors) {
  EXPECT_THAT(error_of([] { (void)Config::parse("a: 1\na: 2\n", "f.yaml"); }),
              testing::HasSubstr("f.yaml:2: a stands twice"));
  EXPECT_THAT(error_of([] { (void)Config::parse("a: [1, 2\n", "f.yaml"); }),
              testing::HasSubstr("not valid YAML"));
  EXPECT_THAT(error_of([] { (void)Config::parse("- 1\n", "f.yaml"); }),
              testing::HasSubstr("expected a map"));
  std::string bomb = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 40; ++i) bomb += fmt::format("a{}: &a{} [*a{}, *a{}]\n", i, i, i - 1, i - 1);
  EXPECT_THAT(error_of([&] { (void)Config::parse(bomb, "f.yaml"); }),
              testing::HasSubstr("more than 100000 values"));
  EXPECT_THAT(error_of([] { (void)Config::parse("a: b\xff\n", "f.yaml"); }),
              testing::HasSubstr("f.yaml: invalid UTF-8 at byte 4"));
  EXPECT_THAT(error_of([] { (void)Config::parse("? " + std::string(300, 'k') + "\n: 1\n", "f"); }),
              testing::HasSubstr("a key of 300 bytes"));
  EXPECT_THAT(
      error_of([] { (void)Config::parse("a: {include: " + std::string(5000, 'x') + "}\n"); }),
      testing::HasSubstr("there is no file"));
}

TEST_F(ConfigTest, PathsReplaceEnvironmentVariables) {
  setenv("EM_CONFIG_TEST", "/data", 1);
  const Config c = Config::parse("a: ${EM_CONFIG_TEST}/x\nb: $EM_CONFIG_UNSET/x\n");
  EXPECT_EQ(c.path("a"), fs::path("/data/x"));
  EXPECT_THAT(error_of([&] { (void)c.path("b"); }), testing::HasSubstr("EM_CONFIG_UNSET"));
}

TEST_F(ConfigTest, ChoiceNamesWhatIsAllowed) {
  const Config c = Config::parse("type: sgd\n");
  EXPECT_THAT(error_of([&] {
                (void)c.choice("type", {"adamw", "muon"});
              }),
              testing::HasSubstr("expected one of adamw, muon; got 'sgd'"));
}

}  // namespace
}  // namespace euromodal
