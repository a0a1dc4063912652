// team.h — threads that go through the phases of one computation together: one parallel region for
// all of it, a barrier between phases. For phases of microseconds, where starting a region each
// would cost as much as the work.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

#include <ATen/Parallel.h>
#include <omp.h>

namespace euromodal {

/// OpenMP's own barrier spins for milliseconds; on cores that are shared with other programs a
/// whole time slice of them is lost at every meeting (a test ran 20 times as long).
class TeamBarrier {
 public:
  void meet(int64_t size) {
    constexpr int kSpins = 2000;  // some 30 µs
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      // notify_all() looks whether anybody sleeps: not before the store can be seen, or one who
      // falls asleep in between is never woken.
      std::atomic_thread_fence(std::memory_order_seq_cst);
      phase_.notify_all();
      return;
    }
    for (int i = 0; i < kSpins; ++i) {
      if (phase_.load(std::memory_order_acquire) != phase) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    phase_.wait(phase, std::memory_order_acquire);
  }

 private:
  std::atomic<int64_t> arrived_ = 0;
  alignas(64) std::atomic<uint32_t> phase_ = 0;
};

class Team {
 public:
  Team(int64_t rank, int64_t size, TeamBarrier& barrier)
      : rank_(rank), size_(size), barrier_(barrier) {}
  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }
  /// Waits for all others; what they wrote before can be read after.
  void meet() const {
    if (size_ > 1) barrier_.meet(size_);
  }
  /// Calls f(begin, end) with this thread's share of `count`, then meets.
  template <typename F>
  void share(int64_t count, F&& f) const {
    const int64_t each = (count + size_ - 1) / size_, begin = std::min(rank_ * each, count);
    const int64_t end = std::min(begin + each, count);
    if (begin < end) f(begin, end);
    meet();
  }

 private:
  int64_t rank_, size_;
  TeamBarrier& barrier_;
};

/// Threads that at::parallel_for() would use.
inline int64_t team_size() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

/// Calls f(Team) on at most team_size() threads. f must not throw (the program would end), and all
/// threads must meet equally often.
template <typename F>
void run_team(F&& f) {
  TeamBarrier barrier;
  const auto threads = static_cast<int>(team_size());
  if (threads == 1) return f(Team(0, 1, barrier));
#pragma omp parallel num_threads(threads)
  f(Team(omp_get_thread_num(), omp_get_num_threads(), barrier));
}

}  // namespace euromodal
