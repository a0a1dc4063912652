// data_cli_test.cpp — `euromodal data` from outside: build, index and check with real pictures;
// wrong use is exit 2, bad data exit 1 with the sample's name.
#include <cstdio>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "tests/support/temp.h"

namespace euromodal {
namespace {

using testing::HasSubstr;

struct CliRun {
  int code = -1;
  std::string out, err;
};

CliRun run_data_cli(const TempDir& dir, const std::string& words) {
  const auto err = dir / "stderr.txt";
  const std::string command = fmt::format("{} data {} 2>{}", EM_PROGRAM, words, err.string());
  CliRun run;
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof(buffer), pipe)) run.out.append(buffer, n);
  const int status = pclose(pipe);
  run.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  run.err = read_bytes(err);
  return run;
}

// Portable pixmap: a real picture without an encoder.
std::string pixmap(int side) {
  std::string text = fmt::format("P6\n{} {}\n255\n", side, side);
  for (int i = 0; i < side * side * 3; ++i) text += static_cast<char>(i * 7);
  return text;
}

std::string picture_record(const std::string& id, const std::string& uri) {
  return fmt::format(
      R"({{"id": "{}", "messages": [{{"role": "user", "parts": [{{"kind": "image", "uri": "{}"}}]}}, {{"role": "assistant", "parts": ["x"]}}]}})"
      "\n",
      id, uri);
}

TEST(DataCliTest, BuildIndexCheck) {
  const TempDir dir;
  dir.write("a.ppm", pixmap(16));
  dir.write("b.ppm", pixmap(9));
  dir.write("r.jsonl", picture_record("one", "a.ppm") + picture_record("two", "b.ppm"));
  const std::string out = (dir / "out").string();
  const CliRun built =
      run_data_cli(dir, "build --records " + (dir / "r.jsonl").string() + " --output " + out);
  EXPECT_EQ(built.code, 0) << built.err;
  EXPECT_THAT(built.out, HasSubstr("2 samples in 1 shards"));
  const std::string index = read_bytes(dir / "out/index.json");
  EXPECT_EQ(run_data_cli(dir, "index " + out).code, 0);
  EXPECT_EQ(read_bytes(dir / "out/index.json"), index);
  const CliRun good = run_data_cli(dir, "check " + out);
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_THAT(good.out, HasSubstr("all good"));

  dir.write("b.ppm", "P6 no picture");
  dir.write("r.jsonl", picture_record("one", "a.ppm") + picture_record("two", "b.ppm"));
  const CliRun bad = run_data_cli(dir, "check " + (dir / "r.jsonl").string());
  EXPECT_EQ(bad.code, 1) << bad.err;
  EXPECT_THAT(bad.out, HasSubstr("r.jsonl:2 (id two)"));
  EXPECT_THAT(bad.err, HasSubstr("1 of 2 samples are bad"));
}

TEST(DataCliTest, WrongUseIsExitTwoAndBadDataExitOne) {
  const TempDir dir;
  EXPECT_EQ(run_data_cli(dir, "").code, 2);
  EXPECT_EQ(run_data_cli(dir, "make").code, 2);
  EXPECT_EQ(run_data_cli(dir, "build --output x").code, 2);
  EXPECT_EQ(run_data_cli(dir, "build --records r --output x --shard-mb 0").code, 2);
  EXPECT_EQ(run_data_cli(dir, "--help").code, 0);
  EXPECT_EQ(run_data_cli(dir, "check --help").code, 0);
  const CliRun missing = run_data_cli(dir, "check /no/such.jsonl");
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.err, HasSubstr("/no/such.jsonl"));
}

}  // namespace
}  // namespace euromodal
