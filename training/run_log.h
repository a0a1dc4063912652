// run_log.h — what a run tells while it goes on: rows of metrics.jsonl, log lines, the progress
// bar. Figures are summed between two rows; rank 0 writes.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "training/dist/collectives.h"
#include "training/run_folder.h"
#include "training/run_metrics.h"

namespace euromodal {

class RunLog {
 public:
  /// `folder`: null on ranks above 0.
  RunLog(Collectives& world, RunFolder* folder, int64_t first_step, int64_t steps);

  /// Figures of this rank since the last row.
  RunMetrics& metrics() { return metrics_; }
  /// A step whose update was applied.
  void applied(double loss_sum, double count);
  /// Every rank calls it after every step; `row_due`: writes a row.
  struct Step {
    int64_t step = 0;
    double norm = 0.0;
    double stall_s = 0.0;  // of the loader since its start
    double lr_factor = 1.0;
    std::vector<std::pair<std::string, double>> rates;  // name, learning rate
    Json times{};  // columns of Straggler::report(), where a row is due
  };
  void step(const Step& figures, bool row_due);
  /// Figures of a validation, on rank 0 (others: nothing happens).
  void validation(int64_t step, const Json& figures);
  void finish() { progress_.finish(); }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds(Clock::time_point since);
  void row(const Step& figures);

  Collectives& world_;
  RunFolder* folder_;
  int64_t first_step_, steps_;
  RunMetrics metrics_;
  Progress progress_;
  Clock::time_point start_, last_row_;
  double loss_sum_ = 0.0, loss_count_ = 0.0, stalled_ = 0.0;
};

}  // namespace euromodal
