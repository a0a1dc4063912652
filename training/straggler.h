// straggler.h — which rank is slower than the others: each rank's own time of a log interval
// (waiting for samples, computing, inside collectives) is gathered, and a rank whose own work takes
// longer than the median by a factor, several intervals in a row, is named with its host.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/json.h"
#include "training/dist/collectives.h"

namespace euromodal {

struct StragglerOptions {
  double factor = 1.2;    // of the median
  int64_t intervals = 3;  // log intervals in a row
  /// run.straggler: {factor, intervals}; missing: the defaults.
  static StragglerOptions parse(const Config& run);
};

/// Seconds of one rank in one log interval.
struct RankTimes {
  double data = 0.0, compute = 0.0, waiting = 0.0;
  double busy() const { return data + compute; }  // what the others wait for
};

/// Looks at one interval after the other; no collectives, no clock.
class StragglerJudge {
 public:
  explicit StragglerJudge(const StragglerOptions& options) : options_(options) {}
  /// One line for each rank that has now been slow for `intervals` intervals in a row (and again
  /// after every further `intervals`). `steps`: of the interval. Ranks alone have no median.
  std::vector<std::string> judge(const std::vector<RankTimes>& times,
                                 const std::vector<std::string>& hosts, int64_t steps);
  /// Columns of the metrics row: waiting_s (inside collectives, mean over ranks, per step; where
  /// the other time goes is the time split's to say), slowest_rank and slowest_ratio (its own work
  /// over the median's).
  static Json row(const std::vector<RankTimes>& times, int64_t steps);

 private:
  StragglerOptions options_;
  std::vector<int64_t> slow_;  // intervals in a row, by rank
};

/// The trainer's hook. All calls on every rank.
class Straggler {
 public:
  /// Collective: learns the hosts.
  Straggler(Collectives& world, const StragglerOptions& options);
  void step_begins();  // before the samples are asked for
  void data_here();
  void step_ends();  // what follows (log, validation, checkpoint) does not count
  /// Collective: gathers the times since the last report. The columns of rank 0's metrics row;
  /// warnings go to the log there.
  Json report();

 private:
  using Clock = std::chrono::steady_clock;
  Collectives& world_;
  StragglerJudge judge_;
  std::vector<std::string> hosts_;
  RankTimes times_;
  int64_t steps_ = 0;
  Clock::time_point begun_, data_;
  double waited_s_ = 0.0;
};

}  // namespace euromodal
