// mpi_run.h — runs a scenario of mpi_program.cpp under mpirun and tells how it ended.
#pragma once
#include <chrono>
#include <cstdio>
#include <string>

#include <fmt/format.h>
#include <sys/wait.h>

namespace euromodal {

struct MpiRun {
  int code = -1;  // exit code, or 128 + signal
  double seconds = 0.0;
  std::string output;  // stdout and stderr
};

inline MpiRun run_mpi(const std::string& scenario, int ranks) {
  const std::string command =
      fmt::format("{} --oversubscribe --bind-to none --allow-run-as-root -n {} {} {} 2>&1",
                  EM_MPIRUN, ranks, EM_MPI_PROGRAM, scenario);
  const auto start = std::chrono::steady_clock::now();
  MpiRun run;
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof(buffer), pipe)) run.output.append(buffer, n);
  const int status = pclose(pipe);
  run.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return run;
}

}  // namespace euromodal
