// commands.cpp — the table of subcommands.
#include "cli/commands.h"

namespace euromodal::cli {

const std::vector<Command>& commands() {
  static const std::vector<Command> table = {};
  return table;
}

}  // namespace euromodal::cli
