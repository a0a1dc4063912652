// race_check.h — finds races of emulated kernels: two accesses to one byte, one of them a write,
// that nothing orders (race_clocks.h), whether or not they did harm in this run. The kernels are
// compiled with GCC's -fsanitize=thread, whose calls come here instead of to its library; whoever
// links this file does not link that one.
//
// Seen: global memory, dynamic shared memory and static shared memory (the program's data), byte by
// byte; copies that are read before they have been waited for; what a dependent launch touches
// before wait_for_predecessor. Of a byte the last write and, of its readers since, the first and
// the last thread are kept. Not seen: accesses in functions that the linker took from a file
// without the option, and what the kernel never does in this run.
#pragma once
#include <string>
#include <vector>

namespace euromodal::emulation {

/// From now on kernels are watched; once per program.
void check_races();
/// What has been found since the last call, each pair of instructions once: what, where (file and
/// line by addr2line), by which threads.
std::vector<std::string> take_races();
/// The current launch and those before it have nothing to do with what follows.
void forget_accesses();

}  // namespace euromodal::emulation
