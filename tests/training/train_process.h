// train_process.h — `euromodal train` as a process of its own, alone or under mpirun, to be
// disturbed while it runs: signals to a rank, limits, its log and exit code.
#pragma once
#include <chrono>
#include <csignal>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/program.h"

namespace euromodal {

class TrainProcess {
 public:
  /// `ranks` 0: alone, without mpirun. `before`: shell words before the program (limits, traps).
  TrainProcess(int ranks, const std::filesystem::path& config, const std::filesystem::path& log,
               const std::vector<std::string>& words, const std::string& before = "")
      : log_(log) {
    std::string line = "exec ";
    if (ranks > 0)
      line += fmt::format("{} --oversubscribe --bind-to none --allow-run-as-root -n {} ", EM_MPIRUN,
                          ranks);
    line += shell_quoted(EM_PROGRAM) + " train --config " + shell_quoted(config.string());
    for (const std::string& word : words) line += " " + shell_quoted(word);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::setpgid(0, 0);
      const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      ::dup2(out, STDOUT_FILENO);
      ::dup2(out, STDERR_FILENO);
      ::execl("/bin/bash", "bash", "-c", (before + line).c_str(), nullptr);
      ::_exit(127);
    }
    ranks_ = ranks;
  }
  ~TrainProcess() {
    if (pid_ <= 0) return;
    ::kill(-pid_, SIGKILL);
    for (const pid_t child : children()) ::kill(child, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  TrainProcess(const TrainProcess&) = delete;
  TrainProcess& operator=(const TrainProcess&) = delete;

  /// The process of a rank; 0 until it is there.
  pid_t rank(int rank) const {
    if (ranks_ == 0) return pid_;
    for (const pid_t child : children()) {
      const std::string environment = read_bytes(fmt::format("/proc/{}/environ", child));
      const std::string name =
          std::string(1, '\0') + fmt::format("OMPI_COMM_WORLD_RANK={}", rank) + '\0';
      if ((std::string(1, '\0') + environment).find(name) != std::string::npos) return child;
    }
    return 0;
  }
  void signal(int rank_number, int number) const { ::kill(rank(rank_number), number); }
  std::string log() const { return read_bytes(log_); }
  /// Until `done`, at most `seconds`; false: it never was.
  static bool until(const std::function<bool()>& done, double seconds = 60.0) {
    const auto start = std::chrono::steady_clock::now();
    while (!done()) {
      if (std::chrono::steady_clock::now() - start > std::chrono::duration<double>(seconds))
        return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
  }
  bool logged(const std::string& text, double seconds = 60.0) const {
    return until([&] { return log().find(text) != std::string::npos; }, seconds);
  }
  /// Exit code, 128 + signal, or -1 when it still runs after `seconds`.
  int wait(double seconds = 60.0) {
    int status = 0;
    if (!until([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; }, seconds)) return -1;
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  std::vector<pid_t> children() const {
    std::vector<pid_t> out;
    std::error_code ignored;
    for (const auto& task :
         std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid_), ignored)) {
      std::istringstream pids(read_bytes(task.path() / "children"));
      for (pid_t child = 0; pids >> child;) out.push_back(child);
    }
    return out;
  }

  std::filesystem::path log_;
  pid_t pid_ = 0;
  int ranks_ = 0;
};

}  // namespace euromodal
