// options.cpp — see options.h.
#include "cli/options.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <set>

#include <getopt.h>

namespace euromodal::cli {

struct Options::Entry {
  std::string name, value, help;  // value: the word shown for it, empty for flags
  std::function<void(const std::string&)> take;
  bool required = false, many = false, positional = false, given = false;
};

namespace {

template <typename T>
T options_number(const std::string& name, const std::string& text, const char* what) {
  T out{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, out);
  if (error == std::errc::result_out_of_range)
    throw UsageError("{}: '{}' is out of range", name, text);
  if (error != std::errc() || stop != end || text.empty())
    throw UsageError("{}: expected {}, got '{}'", name, what, text);
  return out;
}

}  // namespace

Options::Options(std::string command, std::string summary)
    : command_(std::move(command)), summary_(std::move(summary)) {}
Options::~Options() = default;

void Options::flag(const std::string& name, bool* target, const std::string& help) {
  entries_.push_back(
      {.name = name, .value = "", .help = help, .take = [target](const std::string&) {
         *target = true;
       }});
}

void Options::text(const std::string& name, std::string* target, const std::string& value,
                   const std::string& help, bool required) {
  entries_.push_back({.name = name,
                      .value = value,
                      .help = help,
                      .take = [target](const std::string& word) { *target = word; },
                      .required = required});
}

void Options::i64(const std::string& name, int64_t* target, const std::string& help, int64_t min,
                  int64_t max) {
  entries_.push_back(
      {.name = name, .value = "N", .help = help, .take = [=](const std::string& word) {
         const auto number = options_number<int64_t>(name, word, "a whole number");
         if (number < min || number > max) {
           const std::string range = max == INT64_MAX ? fmt::format("{} or more", min)
                                                      : fmt::format("{} to {}", min, max);
           throw UsageError("{}: {} is out of range; expected {}", name, number, range);
         }
         *target = number;
       }});
}

void Options::f64(const std::string& name, double* target, const std::string& help, double min,
                  double max) {
  entries_.push_back(
      {.name = name, .value = "X", .help = help, .take = [=](const std::string& word) {
         const auto number = options_number<double>(name, word, "a number");
         if (!std::isfinite(number) || number < min || number > max)
           throw UsageError("{}: {} is out of range; expected {} to {}", name, word, min, max);
         *target = number;
       }});
}

void Options::each(const std::string& name, const std::string& value, const std::string& help,
                   std::function<void(const std::string&)> call) {
  entries_.push_back({.name = name, .value = value, .help = help, .take = std::move(call)});
}

void Options::many(const std::string& name, std::vector<std::string>* target,
                   const std::string& value, const std::string& help, bool required) {
  entries_.push_back({.name = name,
                      .value = value,
                      .help = help,
                      .take = [target](const std::string& word) { target->push_back(word); },
                      .required = required,
                      .many = true});
}

void Options::positional(const std::string& name, std::string* target, const std::string& help,
                         bool required) {
  entries_.push_back({.name = name,
                      .value = name,
                      .help = help,
                      .take = [target](const std::string& word) { *target = word; },
                      .required = required,
                      .positional = true});
}

bool Options::given(const std::string& name) const {
  for (const auto& entry : entries_) {
    if (entry.name == name) return entry.given;
  }
  return false;
}

bool Options::parse(int argc, char** argv) {
  std::vector<option> table;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (entry.positional) continue;
    table.push_back({entry.name.c_str() + 2, entry.value.empty() ? no_argument : required_argument,
                     nullptr, static_cast<int>(i) + 256});
  }
  table.push_back({"help", no_argument, nullptr, 'h'});
  table.push_back({nullptr, 0, nullptr, 0});

  std::vector<std::string> words;  // those that belong to no option
  Entry* collecting = nullptr;     // the `many` option whose words go on
  optind = 0;                      // glibc: start afresh
  opterr = 0;
  while (true) {
    const int at = optind == 0 ? 1 : optind;
    // "-" first: words that stand alone come in order, as the argument of option 1. ":" makes a
    // missing value its own case.
    const int code = getopt_long(argc, argv, "-:h", table.data(),
                                 nullptr);  // NOLINT(concurrency-mt-unsafe): before threads start
    if (code == -1) break;
    if (code == 'h') {
      std::fputs(help().c_str(), stdout);
      return false;
    }
    const std::string word = at < argc ? argv[at] : "";
    if (code == ':') throw UsageError("{}: needs a value", word);
    if (code == '?') throw UsageError("unknown option '{}'", word);
    if (code == 1) {
      if (collecting)
        collecting->take(optarg);
      else
        words.emplace_back(optarg);
      continue;
    }
    Entry& entry = entries_[static_cast<size_t>(code - 256)];
    // getopt accepts unique beginnings of a name; options are written in full here, so that scripts
    // survive new options.
    const std::string name = word.substr(0, word.find('='));
    if (name != entry.name)
      throw UsageError("unknown option '{}' (did you mean {}?)", name, entry.name);
    entry.given = true;
    entry.take(optarg ? optarg : "");
    collecting = entry.many ? &entry : nullptr;
  }
  while (optind < argc) words.emplace_back(argv[optind++]);  // after "--"

  size_t used = 0;
  for (Entry& entry : entries_) {
    if (!entry.positional || used == words.size()) continue;
    entry.given = true;
    entry.take(words[used++]);
  }
  if (used < words.size()) throw UsageError("unexpected word '{}'", words[used]);
  for (const Entry& entry : entries_) {
    if (entry.required && !entry.given)
      throw UsageError("{} is missing: {}", entry.name, entry.help);
  }
  return true;
}

std::string Options::help() const {
  std::string out =
      fmt::format("euromodal {}: {}\n\nusage: euromodal {}", command_, summary_, command_);
  for (const Entry& entry : entries_) {
    if (entry.positional)
      out += entry.required ? " " + entry.name : " [" + entry.name + "]";
    else if (entry.required)
      out += fmt::format(" {} {}{}", entry.name, entry.value, entry.many ? "..." : "");
  }
  out += " [options]\n\n";
  for (const Entry& entry : entries_) {
    const std::string left = entry.positional ? entry.name
                             : entry.value.empty()
                                 ? entry.name
                                 : entry.name + " " + entry.value + (entry.many ? "..." : "");
    out += fmt::format("  {:<28} {}{}\n", left, entry.help, entry.required ? " (required)" : "");
  }
  out += fmt::format("  {:<28} {}\n", "--help", "this text");
  return note_.empty() ? out : out + "\n" + note_ + "\n";
}

}  // namespace euromodal::cli
