// commands.h — the subcommands, one file each; commands.cpp lists them.
#pragma once
#include <string>
#include <vector>

namespace euromodal::cli {

struct Command {
  const char* name;
  const char* summary;
  int (*run)(int argc, char** argv);
};  // argv[0] is the subcommand

const std::vector<Command>& commands();

/// Ends this process at once, from any thread, nothing cleaned up: what a watchdog does (main.cpp).
void end_process(int code);

int run_tokenize(int argc, char** argv);
int run_generate(int argc, char** argv);
int run_score(int argc, char** argv);
int run_quantize(int argc, char** argv);
int run_bench(int argc, char** argv);
int run_chat(int argc, char** argv);
int run_encode(int argc, char** argv);
int run_caption(int argc, char** argv);
int run_train(int argc, char** argv);
int run_inspect(int argc, char** argv);
int run_data(int argc, char** argv);

}  // namespace euromodal::cli
