// time_split.h — where the time of a loop goes: named scopes add their own seconds (without those
// of scopes inside them) to the collector of their thread. Without a collector a scope costs one
// look at a pointer.
//
//   TimeSplit split;                            // collects from this thread while it lives
//   { const TimeScope scope("backward"); ... }
//   for (const auto& [name, seconds] : split.take()) ...
#pragma once
#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace euromodal {

class TimeSplit {
 public:
  TimeSplit();   // becomes the collector of this thread
  ~TimeSplit();  // the one before is again
  TimeSplit(const TimeSplit&) = delete;
  TimeSplit& operator=(const TimeSplit&) = delete;
  /// Seconds by name since the last call, in order of first use. Not inside a scope.
  std::vector<std::pair<std::string, double>> take();

 private:
  friend class TimeScope;
  using Clock = std::chrono::steady_clock;
  void enter(const char* name);
  void leave();
  void charge(Clock::time_point now);

  TimeSplit* outer_;
  std::vector<std::pair<const char*, double>> sums_;
  std::vector<size_t> open_;  // scopes we are in, as indices into sums_
  Clock::time_point since_;
};

class TimeScope {
 public:
  /// `name` lives as long as the collector (a literal).
  explicit TimeScope(const char* name);
  ~TimeScope();
  TimeScope(const TimeScope&) = delete;
  TimeScope& operator=(const TimeScope&) = delete;

 private:
  TimeSplit* split_;
};

}  // namespace euromodal
