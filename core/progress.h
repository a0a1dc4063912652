// progress.h — how far long work is: a bar with ETA on a terminal, a plain line now and then
// elsewhere (stderr).
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace euromodal {

class Progress {
 public:
  /// `unit` e.g. "steps"; `total` <= 0: unknown. `enabled` false (ranks above 0): silent. `before`:
  /// how much was done before this run, for the ETA.
  Progress(std::string title, int64_t total, std::string unit, bool enabled = true,
           int64_t before = 0);
  ~Progress();  // ends the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Sets how much is done; `note` stands behind the bar ("loss=2.31"). Draws at most 10 times a
  /// second (terminal) or every 10 s (else).
  void update(int64_t done, const std::string& note = "");
  void finish(const std::string& note = "");

 private:
  void draw(bool last);
  std::string title_, unit_, note_;
  int64_t total_, before_, done_ = 0;
  bool enabled_, terminal_, finished_ = false;
  std::chrono::steady_clock::time_point start_, drawn_;
};

}  // namespace euromodal
