// options.h — the command line of one subcommand: long options in words, --help made from the same
// table. On glibc's getopt_long, so the word after an option is its value, also when it looks
// negative. UsageError (exit 2) names the flag or value at fault.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"

namespace euromodal::cli {

class Options {
 public:
  Options(std::string command, std::string summary);
  ~Options();
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;
  // Each call declares one option; `target` keeps its initial value when the option is not given.
  void flag(const std::string& name, bool* target, const std::string& help);
  void text(const std::string& name, std::string* target, const std::string& value,
            const std::string& help, bool required = false);
  void i64(const std::string& name, int64_t* target, const std::string& help, int64_t min,
           int64_t max);
  void f64(const std::string& name, double* target, const std::string& help, double min,
           double max);
  /// Called for every occurrence, in the order of the command line.
  void each(const std::string& name, const std::string& value, const std::string& help,
            std::function<void(const std::string&)> call);
  /// Words that follow `--name` up to the next option, and words that stand alone, are all
  /// appended.
  void many(const std::string& name, std::vector<std::string>* target, const std::string& value,
            const std::string& help, bool required = false);
  void positional(const std::string& name, std::string* target, const std::string& help,
                  bool required);
  /// Text at the end of --help.
  void note(std::string text) { note_ = std::move(text); }
  /// Was this option on the command line?
  bool given(const std::string& name) const;
  /// Parses argv[1..]; returns false when --help was asked for and printed (exit 0).
  bool parse(int argc, char** argv);
  std::string help() const;

 private:
  struct Entry;
  std::string command_, summary_, note_;
  std::vector<Entry> entries_;
};

}  // namespace euromodal::cli
