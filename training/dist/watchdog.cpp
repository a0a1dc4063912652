// watchdog.cpp — see watchdog.h.
#include "training/dist/watchdog.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <thread>

#include <semaphore.h>

#include "core/files.h"
#include "core/log.h"
#include "training/dist/collectives.h"
#include "training/dist/flight_report.h"
#include "training/dist/launcher.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

// Signals reach no object: what they leave here, the thread picks up.
std::atomic<int> watchdog_signal{0};
std::atomic<sem_t*> watchdog_bell{nullptr};

double watchdog_clock_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Until the bell rings or `seconds` are over.
void watchdog_sleep(sem_t* bell, double seconds) {
  timespec until{};
  ::clock_gettime(CLOCK_MONOTONIC, &until);
  const double end =
      static_cast<double>(until.tv_sec) + 1e-9 * static_cast<double>(until.tv_nsec) + seconds;
  until.tv_sec = static_cast<time_t>(end);
  until.tv_nsec = static_cast<long>((end - static_cast<double>(until.tv_sec)) * 1e9);
  while (::sem_clockwait(bell, CLOCK_MONOTONIC, &until) != 0 && errno == EINTR) {
  }
}

/// `frozen_s`: how long this thread itself was not run, where that explains the fault.
std::string watchdog_text(const FlightRecord::Now& now, const std::string& host, double frozen_s) {
  std::string who = fmt::format(
      "rank {} of {} on host {}, phase '{}': no progress for {:.1f} s (deadline {:g} s)", now.rank,
      now.size, host, now.phase, now.silent_s, now.deadline_s);
  if (frozen_s > 0.0)
    return fmt::format("{}: the whole process stood still for {:.1f} s (stopped or starved)", who,
                       frozen_s);
  if (now.inside.empty())
    return fmt::format(
        "{}, outside any collective{}: this rank itself hangs (data, compute or file system)", who,
        now.pending > 0 ? fmt::format(" ({} on their way)", now.pending) : "");
  return fmt::format("{}, in {}: {}", who, now.inside,
                     now.waiting ? "not every rank has come"
                                 : "every rank has come, but one does not move its data");
}

}  // namespace

void note_watchdog_signal(int signal) {
  const int error = errno;
  watchdog_signal = signal;
  if (sem_t* bell = watchdog_bell) ::sem_post(bell);
  errno = error;
}

struct Watchdog::Impl {
  sem_t bell{};
  std::atomic<bool> stop{false};
  std::thread thread;
  struct sigaction before {};
};

Watchdog::Watchdog(WatchdogOptions options)
    : options_(std::move(options)), impl_(std::make_unique<Impl>()) {
  check<DistError>(watchdog_bell == nullptr, "a second watchdog in one process");
  const Launch launch = find_launch();
  record_.set_rank(launch.rank, launch.size);
  record_.set_phase("setup", options_.setup_deadline_s);
  ::sem_init(&impl_->bell, /*pshared=*/0, 0);
  watchdog_signal = 0;
  watchdog_bell = &impl_->bell;
  struct sigaction action {};
  action.sa_handler = &note_watchdog_signal;
  action.sa_flags = SA_RESTART;  // the run is not disturbed
  ::sigaction(SIGUSR2, &action, &impl_->before);
  impl_->thread = std::thread([this] { watch(); });
}

void Watchdog::watch() {
  double longest_s = 0.0, woke_s = watchdog_clock_s();  // of late: a time without being run
  while (!impl_->stop) {
    const FlightRecord::Now now = record_.now();
    // Judged by the phase of now: the process may have been stopped in one that had more time, and
    // what is said of it counts for as long as others may still wait because of it.
    const bool of_late = watchdog_clock_s() - woke_s < now.deadline_s;
    const double frozen_s = of_late && longest_s >= 0.5 * now.deadline_s ? longest_s : 0.0;
    record_.set_stood_still(frozen_s);
    if (const int signal = watchdog_signal.exchange(0); signal != 0) {
      write(fmt::format("signal {}", signal));
      if (signal == SIGUSR2)
        log_info("flight record written to {} (SIGUSR2)", options_.folder.string());
    } else if (now.silent_s > now.deadline_s) {
      const std::string text = watchdog_text(now, record_.host(), frozen_s);
      write(text);
      std::fprintf(stderr,
                   "euromodal: %s; flight record in %s; ending all ranks with exit code %d\n",
                   text.c_str(), options_.folder.c_str(), kDeadlineExit);
      std::fflush(stderr);
      std::this_thread::sleep_for(std::chrono::duration<double>(options_.grace_s));
      if (now.rank == 0 && now.size > 1) {
        std::fprintf(stderr, "euromodal: %s\n", flight_verdict(options_.folder).c_str());
        std::fflush(stderr);
      }
      options_.end(kDeadlineExit);
      return;
    }
    const double nap_s = std::min(0.5, std::max(0.01, now.deadline_s / 20));
    const double before_s = watchdog_clock_s();
    watchdog_sleep(&impl_->bell, nap_s);
    const double after_s = watchdog_clock_s(), over_s = after_s - before_s - nap_s;
    if (over_s > longest_s || !of_late) {
      longest_s = over_s;
      woke_s = after_s;
    }
  }
}

Watchdog::~Watchdog() {
  impl_->stop = true;
  ::sem_post(&impl_->bell);
  impl_->thread.join();
  ::sigaction(SIGUSR2, &impl_->before, nullptr);
  watchdog_bell = nullptr;
  ::sem_destroy(&impl_->bell);
}

void Watchdog::set_rank(int rank, int size) {
  record_.set_rank(rank, size);
  if (rank != 0) return;
  std::error_code ignored;
  if (!fs::exists(options_.folder, ignored)) return;
  const fs::path before = options_.folder.string() + ".before";
  fs::remove_all(before, ignored);
  fs::rename(options_.folder, before, ignored);
}

void Watchdog::write(const std::string& reason) {
  try {
    const Json record = record_.json(reason);
    fs::create_directories(options_.folder);
    write_text_atomic(options_.folder / fmt::format("rank-{}.json", record["rank"].get<int>()),
                      record.dump() + "\n");
  } catch (const std::exception& e) {
    log_warn("the flight record cannot be written: {}", e.what());
  }
}

void Watchdog::fault(const std::exception& error) {
  write(error.what());
  if (dynamic_cast<const DistError*>(&error) != nullptr && record_.now().size > 1)
    std::this_thread::sleep_for(std::chrono::duration<double>(options_.grace_s));
}

}  // namespace euromodal
