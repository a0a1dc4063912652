// error.h — the exceptions of this project. A message says what was got, what was expected and what
// to do; the type says who can mend it. Only main() turns them into exit codes (UsageError: 2,
// every other: 1); no library code ends the process.
#pragma once
#include <stdexcept>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace euromodal {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  template <typename... Args>
  explicit Error(fmt::format_string<Args...> format, Args&&... args) requires(sizeof...(Args) > 0)
      : std::runtime_error(fmt::format(format, std::forward<Args>(args)...)) {}
};

class UsageError : public Error {
  using Error::Error;
};  // wrong command line
class ConfigError : public Error {
  using Error::Error;
};  // wrong YAML or config.json; names file, line and key
class DataError : public Error {
  using Error::Error;
};  // a bad sample, media file or text
class CheckpointError : public Error {
  using Error::Error;
};  // weights, tokenizer or checkpoint files
class DistError : public Error {
  using Error::Error;
};  // ranks, collectives

/// Throws E with the formatted message unless `ok`: check<DataError>(n > 0, "{}: no samples",
/// path).
template <typename E = Error, typename... Args>
void check(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) throw E(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace euromodal
