// main.cpp — `euromodal SUBCOMMAND ...`: finds the subcommand and turns exceptions into one message
// on stderr and an exit code (0 success, 2 wrong use, 1 any other fault). The only place that ends
// the process.
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include <c10/util/Exception.h>
#include <unistd.h>

#include "cli/commands.h"
#include "core/error.h"
#include "training/dist/collectives.h"

namespace {

void print_usage(std::FILE* out) {
  std::fprintf(out,
               "euromodal %s: EuroLLM with speech, vision and video\n\nusage: euromodal SUBCOMMAND "
               "[options]   (euromodal SUBCOMMAND --help)\n\n",
               EUROMODAL_VERSION);
  for (const auto& command : euromodal::cli::commands())
    std::fprintf(out, "  %-10s %s\n", command.name, command.summary);
}

// One fault, at most a few lines: long messages of libraries (stack traces) are cut at their first
// line.
int report(const std::string& command, const std::string& message, int code) {
  std::string text = message;
  for (const char* mark : {"\nException raised from", "\nframe #"}) {
    if (const auto at = text.find(mark); at != std::string::npos) text.resize(at);
  }
  euromodal::abort_world(code, text);  // under mpirun the other ranks wait for this one
  std::fprintf(stderr, "euromodal %s: error: %s\n", command.c_str(), text.c_str());
  if (code == 2) std::fprintf(stderr, "see: euromodal %s --help\n", command.c_str());
  return code;
}

}  // namespace

void euromodal::cli::end_process(int code) {
  std::fflush(stderr);
  ::_exit(code);
}

int main(int argc, char** argv) {
  ::signal(SIGXFSZ, SIG_IGN);  // a file at its size limit: an error of write(), like a full disk
  if (argc < 2) {
    print_usage(stderr);
    return 2;
  }
  const std::string name = argv[1];
  if (name == "--help" || name == "-h" || name == "help") {
    print_usage(stdout);
    return 0;
  }
  if (name == "--version") {
    std::printf("euromodal %s\n", EUROMODAL_VERSION);
    return 0;
  }
  for (const auto& command : euromodal::cli::commands()) {
    if (name != command.name) continue;
    try {
      return command.run(argc - 1, argv + 1);
    } catch (const euromodal::UsageError& e) {
      return report(name, e.what(), 2);
    } catch (const c10::Error& e) {
      return report(name, e.what_without_backtrace(), 1);
    } catch (const std::bad_alloc&) {
      return report(name, "out of memory", 1);
    } catch (const std::exception& e) {
      return report(name, e.what(), 1);
    }
  }
  std::fprintf(stderr, "euromodal: error: unknown subcommand '%s'; see: euromodal --help\n",
               name.c_str());
  return 2;
}
