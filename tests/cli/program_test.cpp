// program_test.cpp — the program as a whole: help, the frozen list of options, wrong use.
#include "tests/support/program.h"

#include <regex>
#include <set>

#include <gtest/gtest.h>

#include "core/json.h"

namespace euromodal {
namespace {

std::vector<std::string> subcommands() {
  std::vector<std::string> names;
  const std::string usage = run_program({"--help"}).out;
  const std::regex line(R"((?:^|\n)  ([a-z]+) )");
  for (auto i = std::sregex_iterator(usage.begin(), usage.end(), line); i != std::sregex_iterator();
       ++i)
    names.push_back((*i)[1]);
  return names;
}

/// The options that `NAME --help` lists, one line: "generate --beams --device ...".
std::string option_line(const std::string& name) {
  const std::string help = run_program({name, "--help"}).out;
  std::set<std::string> options;
  const std::regex option(R"(\n  (--[a-z0-9-]+))");
  for (auto i = std::sregex_iterator(help.begin(), help.end(), option); i != std::sregex_iterator();
       ++i)
    options.insert((*i)[1]);
  std::string line = name;
  for (const std::string& word : options) line += " " + word;
  return line;
}

TEST(ProgramTest, HelpOfEverySubcommandSucceeds) {
  const auto names = subcommands();
  ASSERT_GE(names.size(), 3U);
  for (const std::string& name : names) {
    const ProgramResult result = run_program({name, "--help"});
    EXPECT_EQ(result.code, 0) << name << ": " << result.err;
    EXPECT_NE(result.out.find("euromodal " + name), std::string::npos) << result.out;
    EXPECT_TRUE(result.err.empty()) << result.err;
  }
}

// Scripts rely on these names: whoever changes one changes tests/cli/options.txt on purpose.
TEST(ProgramTest, OptionsAreFrozen) {
  const std::string golden = read_bytes(EM_TEST_DIR "/options.txt");
  std::set<std::string> want, got;
  std::istringstream lines(golden);
  for (std::string line; std::getline(lines, line);)
    if (!line.empty() && line[0] != '#') want.insert(line);
  for (const std::string& name : subcommands()) {
    if (name == "data") continue;  // subcommands of its own
    got.insert(option_line(name));
  }
  EXPECT_EQ(got, want);
}

TEST(ProgramTest, WrongUseIsExit2AndNamesTheWord) {
  EXPECT_TRUE(fails_clearly(run_program({"defenestrate"}), 2, {"defenestrate"}));
  EXPECT_EQ(run_program({}).code, 2);
  for (const std::string& name : subcommands()) {
    if (name == "data") continue;
    EXPECT_TRUE(fails_clearly(run_program({name, "--sparkle"}), 2, {"--sparkle"}));
  }
  EXPECT_TRUE(fails_clearly(run_program({"generate", "--model"}), 2, {"--model"}));
  EXPECT_TRUE(fails_clearly(run_program({"generate", "--tokens", "1"}), 2, {"--model"}));
}

TEST(ProgramTest, VersionIsOneLine) {
  const ProgramResult result = run_program({"--version"});
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(std::regex_match(result.out, std::regex("euromodal [0-9]+\\.[0-9]+.*\n")));
}

}  // namespace
}  // namespace euromodal
