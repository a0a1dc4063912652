// stop_request.h — what asks a run to save, or to save and leave, after the step it is in: signals,
// the end of its time, files in its folder.
#pragma once
#include <array>
#include <chrono>
#include <csignal>
#include <deque>
#include <filesystem>
#include <optional>
#include <string>

#include "core/config.h"

namespace euromodal {

/// "3h30m", "45m", "90s", "1d12h" or a number of seconds -> seconds; ConfigError naming the key.
double parse_duration(const Config& config, const std::string& key);

struct StopOptions {
  std::filesystem::path dir;  // of the run: files `save` and `stop` in it are requests
  std::optional<std::chrono::steady_clock::time_point> deadline;
  bool leader = true;  // rank 0: watches clock and folder for all
};

/// The earlier one of `started` + run.wall_clock_limit and SLURM_JOB_END_TIME (Unix seconds, set by
/// Slurm), where there is one.
std::optional<std::chrono::steady_clock::time_point> run_deadline(
    const Config& run, std::chrono::steady_clock::time_point started);

/// Requests of this rank; as numbers, so that they can be summed over ranks: above 0 is a request.
struct StopVotes {
  enum Kind { kSignal, kTime, kStopFile, kSaveFile };
  std::array<double, 4> of{};
  bool leave() const { return of[kSignal] > 0.0 || of[kTime] > 0.0 || of[kStopFile] > 0.0; }
  bool save() const { return of[kSaveFile] > 0.0 || leave(); }
  /// For the log: "a signal", "the end of its time", "the file stop".
  std::string reason() const;
};

/// SIGTERM, SIGINT and SIGUSR1 are requests while this object lives; the old handlers come back
/// afterwards. One at a time. Request files from before are removed.
class StopRequest {
 public:
  explicit StopRequest(StopOptions options);
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  /// Once before every step. There is time left as long as two steps (of the longest among the last
  /// 32) and two checkpoints of `checkpoint_s` fit, and a margin of 2 % of all the time, at most
  /// 30 s.
  StopVotes votes(double checkpoint_s);
  /// Removes the request files that the ranks have agreed on.
  void honoured(const StopVotes& agreed) const;

 private:
  using Clock = std::chrono::steady_clock;
  bool time_is_up(Clock::time_point now, double checkpoint_s) const;

  static constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR1};
  struct sigaction before_[3]{};
  StopOptions options_;
  Clock::time_point start_;
  std::optional<Clock::time_point> last_step_, last_look_;
  std::deque<double> steps_s_;
};

}  // namespace euromodal
