// run_log.h — what a run tells while it goes on: rows of metrics.jsonl, log lines, the progress
// bar. Figures are summed between two rows; rank 0 writes.
#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "core/time_split.h"
#include "training/data/loader.h"
#include "training/dist/collectives.h"
#include "training/event_file.h"
#include "training/run_folder.h"
#include "training/run_metrics.h"

namespace euromodal {

class RunLog {
 public:
  struct Options {
    int64_t first_step = 0, steps = 0;
    double peak_flops = 0.0;     // of all ranks together; 0: no MFU
    bool time_split = true;      // time_*_s of the scopes in this thread (core/time_split.h)
    bool tensorboard = false;    // also event files in FOLDER/tensorboard
    bool shared_memory = false;  // memory_pss_mb: ranks of a node may hold memory together
  };
  /// `folder`: null on ranks above 0.
  RunLog(Collectives& world, RunFolder* folder, const Options& options);

  /// Figures of this rank since the last row.
  RunMetrics& metrics() { return metrics_; }
  /// A step whose update was applied.
  void applied(double loss_sum, double count);
  /// Beside the figures of the next row only, e.g. chance_loss of the first.
  void note(const std::string& name, double value) { notes_.emplace_back(name, value); }
  /// Every rank calls it after every step; `row_due`: writes a row.
  struct Step {
    int64_t step = 0;
    double norm = 0.0;
    LoaderFigures data;  // since its start
    double lr_factor = 1.0;
    std::vector<std::pair<std::string, double>> rates;  // name, learning rate
    int64_t bad_steps = 0, spikes = 0;                  // skipped so far
    Json times{};  // columns of Straggler::report(), where a row is due
  };
  void step(const Step& figures, bool row_due);
  /// Figures of a validation, on rank 0 (others: nothing happens).
  void validation(int64_t step, const Json& figures);
  /// What the model answers, on rank 0.
  void samples(const std::vector<Json>& rows);
  void finish() { progress_.finish(); }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds(Clock::time_point since);
  void row(const Step& figures);
  void write(const Json& row);

  Collectives& world_;
  RunFolder* folder_;
  Options options_;
  RunMetrics metrics_;
  Progress progress_;
  Clock::time_point start_, last_row_;
  std::optional<TimeSplit> split_;
  std::unique_ptr<EventFile> events_;
  std::vector<std::pair<std::string, double>> notes_;
  double loss_sum_ = 0.0, loss_count_ = 0.0, last_loss_ = 0.0;
  int64_t steps_since_ = 0;
  LoaderFigures data_;  // at the last row
};

}  // namespace euromodal
