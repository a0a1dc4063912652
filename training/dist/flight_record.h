// flight_record.h — the last collectives of this rank, and where it is now: what `euromodal inspect
// RUN/flight` compares over ranks after a fault. Written by the rank's thread, read by the
// watchdog's.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>

#include "core/json.h"

namespace euromodal {

/// What makes two ranks' calls the same collective.
struct FlightCall {
  std::string operation{};  // "all_reduce_sum"
  int64_t count = 0;        // of `dtype`; -1: may differ over ranks (all_gather)
  std::string dtype{};      // "f32", "u8"; empty: no data (barrier)
  std::string group{};      // "world", or a part of it
  bool operator==(const FlightCall&) const = default;
  std::string text() const;  // "all_reduce_sum of 100 f32"; names the group unless it is the world
};

class FlightRecord {
 public:
  /// Keeps the newest `capacity` calls.
  explicit FlightRecord(size_t capacity = 2048) : capacity_(capacity) {}

  void set_rank(int rank, int size);
  /// Starts the clock of `deadline_s` anew.
  void set_phase(const std::string& phase, double deadline_s);
  /// A collective is called: returns its ticket.
  int64_t enqueue(FlightCall call);
  /// The rank waits inside this call, until unblock(), ended() or failed().
  void block(int64_t ticket);
  void unblock();
  /// Every rank has come to this call of the group (numbers count from 1 in each group).
  void started(const std::string& group, int64_t sequence);
  void ended(int64_t ticket);
  void failed(int64_t ticket);  // it threw
  /// The whole process was not run for so long of late (SIGSTOP, starved); 0: it was.
  void set_stood_still(double seconds);
  /// Seconds spent so far between block() and its end.
  double blocked_s() const;

  struct Now {
    int rank = 0, size = 1;
    std::string phase;
    double deadline_s = 0.0;
    double silent_s = 0.0;  // since a phase or collective began, or a collective or wait ended
    std::string inside{};   // the collective that the rank waits in, with its number; or empty
    bool waiting = false;   // ... and the other ranks have not all come
    int64_t pending = 0;    // collectives that have not ended
  };
  Now now() const;
  const std::string& host() const { return host_; }
  /// Everything, for rank-N.json. Times are Unix seconds; -1: not yet; an end of -2: it threw.
  Json json(const std::string& reason) const;

 private:
  struct Entry {
    FlightCall call;
    std::string phase;
    int64_t ticket, sequence;  // sequence: of this call in its group, from 1
    double enqueue_s, start_s = -1.0, end_s = -1.0;
  };
  Entry* find(int64_t ticket);
  void progress();
  void leave();

  mutable std::mutex mutex_;
  size_t capacity_;
  std::deque<Entry> entries_;
  std::map<std::string, int64_t> sequences_;
  int rank_ = 0, size_ = 1;
  int64_t tickets_ = 0, blocked_ = 0;  // blocked_: ticket, 0: none
  std::string phase_ = "setup", host_ = host_name();
  double deadline_s_ = 1e9, progress_s_ = steady_s(), blocked_since_s_ = 0.0, blocked_s_ = 0.0,
         stood_still_s_ = 0.0;

  static std::string host_name();
  static double steady_s();
};

}  // namespace euromodal
