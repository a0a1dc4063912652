// watchdog.h — a thread beside each rank that ends the run when nothing moves: it fires when no
// phase, collective or transfer has begun or ended within the phase's deadline, so also when the
// rank itself hangs outside any collective (decoding, compute, a file system). It never calls MPI.
//
// When it fires: one line that names rank, host, phase, collective and seconds; the flight record
// to FOLDER/rank-N.json; a moment for the other ranks to do the same; then options.end(42) ends
// this process, and mpirun or srun the others (their SIGTERM makes them write their records too).
// SIGUSR2 writes the record of a running rank and disturbs nothing.
#pragma once
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "training/dist/flight_record.h"

namespace euromodal {

struct WatchdogOptions {
  std::filesystem::path folder;       // RUN/flight; made when first written to
  double setup_deadline_s = 900.0;    // of the first phase, "setup"
  double grace_s = 2.0;               // between the record and the end of the process
  std::function<void(int code)> end;  // ends the process; called from the watchdog's thread
};

/// One per process, in main's thread, around the world's whole life.
class Watchdog {
 public:
  explicit Watchdog(WatchdogOptions options);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  FlightRecord& record() { return record_; }
  /// Rank 0 moves the record of an earlier run aside (FOLDER.before).
  void set_rank(int rank, int size);
  /// FOLDER/rank-N.json, at once. Never throws: a full disk must not hide the fault.
  void write(const std::string& reason);
  /// For main, with the exception that ends this rank: write(); after a DistError, which the other
  /// ranks have too, also the grace, so that none ends all before each has written.
  void fault(const std::exception& error);

 private:
  struct Impl;
  void watch();
  WatchdogOptions options_;
  FlightRecord record_;
  std::unique_ptr<Impl> impl_;
};

/// For handlers of SIGTERM that others own: the watchdog's thread, if there is one, writes the
/// record. Async-signal-safe.
void note_watchdog_signal(int signal);

}  // namespace euromodal
