// run_folder.h — the folder of a run: resolved config and environment (written before step 0),
// metrics.jsonl, samples.jsonl, checkpoints/, model/. Rank 0 writes.
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/json.h"

namespace euromodal {

class RunFolder {
 public:
  /// `resume` false: the folder must not hold a run yet (ConfigError says what to do). Writes
  /// config.yaml and environment.json; a resumed run keeps the metrics and samples of the steps
  /// before `first_step`.
  RunFolder(const std::filesystem::path& dir, const std::string& resolved_config,
            const Json& environment, bool resume, int64_t first_step);
  /// One line of metrics.jsonl, on disk at once.
  void log(const Json& row) { metrics_.write(row); }
  /// One line of samples.jsonl.
  void log_sample(const Json& row) { samples_.write(row); }
  const std::filesystem::path& dir() const { return dir_; }

 private:
  class Rows {
   public:
    /// Goes on behind the rows of `file` whose step is below `first_step`.
    Rows(std::filesystem::path file, int64_t first_step);
    void write(const Json& row);

   private:
    std::filesystem::path file_;
    std::ofstream out_;
  };
  std::filesystem::path dir_;
  Rows metrics_, samples_;
};

/// Versions of the program and its libraries, git hash of the sources, host, ranks, seed.
Json run_environment(int ranks, int64_t threads, uint64_t seed);

}  // namespace euromodal
