// checkpointer.h — when a run's state is written and how many stay. The state is copied in memory
// and written by a thread while steps go on, at most one at a time; a fault of the writer comes out
// of the next call. One rank of a run has one.
#pragma once
#include <atomic>
#include <filesystem>
#include <future>
#include <optional>
#include <string>

#include "core/config.h"
#include "training/checkpoint.h"

namespace euromodal {

struct CheckpointOptions {
  int64_t every = 0;  // steps between two; 0: only at the end
  int64_t keep = 2;   // newest ones that stay
  bool async = true;  // false: the step waits for the disk, nothing is copied
  // best: the ones with the best value of a validation's figure stay whatever their age.
  std::string best_metric;  // "validation_loss"; empty: none
  bool best_is_smallest = true;
  int64_t best_keep = 1;
  /// `checkpoint: {every, keep, async, best: {metric, mode: min | max, keep}}`, all optional.
  static CheckpointOptions parse(const Config& config);
};

class Checkpointer {
 public:
  /// Of the checkpoints already there, those of at most `first_step` steps count.
  Checkpointer(std::filesystem::path checkpoints, const CheckpointOptions& options,
               RunIdentity identity, int64_t first_step);
  /// Waits for the writer; a fault that no call has told yet is logged.
  ~Checkpointer();
  Checkpointer(const Checkpointer&) = delete;
  Checkpointer& operator=(const Checkpointer&) = delete;

  /// Waits for the writer, then starts it on `state`; afterwards it removes unfinished folders and
  /// complete ones that need not stay, and points `best` at the best.
  void save(RunState state);
  /// Throws what went wrong in a write that has ended.
  void poll();
  /// Until nothing is being written; throws what went wrong.
  void wait();

  /// Are these figures of a validation better than those of every checkpoint so far? ConfigError
  /// when they lack the metric.
  bool improves(const Json& figures) const;
  /// What a write takes: the longest so far, before the first an estimate from `bytes`.
  double expected_seconds(int64_t bytes) const;

 private:
  void write(const RunState& state);
  void prune(int64_t step) const;

  std::filesystem::path checkpoints_;
  CheckpointOptions options_;
  RunIdentity identity_;
  std::optional<double> best_;
  std::atomic<double> seconds_{0.0};
  std::future<void> writing_;
};

}  // namespace euromodal
