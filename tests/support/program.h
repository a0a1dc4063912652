// program.h — runs the euromodal program (EM_PROGRAM) as a user would: exit code, stdout, stderr.
#pragma once
#include <cstdlib>
#include <string>
#include <vector>

#include <sys/wait.h>

#include "tests/support/temp.h"

namespace euromodal {

struct ProgramResult {
  int code = -1;  // exit code, or 128 + the signal that ended it
  std::string out, err;
};

inline std::string shell_quoted(const std::string& word) {
  std::string out = "'";
  for (char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

/// Runs EM_PROGRAM with `words` and `input` on stdin; at most 60 s.
inline ProgramResult run_program(const std::vector<std::string>& words,
                                 const std::string& input = "",
                                 const std::string& environment = "") {
  // Not a TempDir: that one is the test's own, by its name.
  std::string pattern =
      (std::filesystem::path(testing::TempDir()) / "euromodal_run_XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) return {};
  const std::filesystem::path dir = pattern, in = dir / "stdin";
  std::ofstream(in, std::ios::binary) << input;
  std::string line = environment + " timeout 60 " + shell_quoted(EM_PROGRAM);
  for (const std::string& word : words) line += " " + shell_quoted(word);
  line += " <" + shell_quoted(in.string()) + " >" + shell_quoted((dir / "out").string()) + " 2>" +
          shell_quoted((dir / "err").string());
  const int status = std::system(line.c_str());  // NOLINT: tests
  ProgramResult result;
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_bytes(dir / "out");
  result.err = read_bytes(dir / "err");
  std::filesystem::remove_all(dir);
  return result;
}

/// One clear error (CONTRACT 16): this exit code, nothing on stdout, 1 to 20 lines on stderr that
/// hold one of nothing internal and every one of `words`.
inline testing::AssertionResult fails_clearly(const ProgramResult& result, int code,
                                              std::initializer_list<std::string_view> words) {
  auto failure = [&](const std::string& why) {
    return testing::AssertionFailure() << why << "; exit " << result.code << ", stderr:\n"
                                       << result.err;
  };
  if (result.code != code) return failure("expected exit " + std::to_string(code));
  if (!result.out.empty()) return failure("stdout is not empty: " + result.out);
  const auto lines = std::count(result.err.begin(), result.err.end(), '\n');
  if (lines < 1 || lines > 20) return failure(std::to_string(lines) + " lines on stderr");
  for (const char* internal : {"what()", "terminate called", "frame #", "Exception raised from",
                               "Assertion", "backtrace", "runtime error:"}) {
    if (result.err.find(internal) != std::string::npos)
      return failure("stderr holds " + std::string(internal));
  }
  for (const std::string_view word : words) {
    if (result.err.find(word) == std::string::npos)
      return failure("stderr does not name " + std::string(word));
  }
  return testing::AssertionSuccess();
}

}  // namespace euromodal
