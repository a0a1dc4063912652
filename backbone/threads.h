// threads.h — how many threads compute on the CPU, and where they run: `--threads` and `--pin`.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/cpus.h"

namespace euromodal {

/// kAuto: where memory lies at several nodes and the threads fill the cores, so that no thread goes
/// away from the memory that it wrote first; not where OpenMP was told already (OMP_PROC_BIND,
/// OMP_PLACES, GOMP_CPU_AFFINITY).
enum class Pinning { kAuto, kYes, kNo };

/// "auto", "yes" or "no"; UsageError naming any other word.
Pinning parse_pinning(const std::string& word);

struct ThreadPlan {
  int64_t threads = 1;
  std::vector<int> cpus;  // of each thread; empty: wherever the system likes
};

/// What is known before threads are chosen.
struct ThreadHints {
  std::optional<int64_t> omp_threads{};  // OMP_NUM_THREADS
  bool omp_bound = false;
  std::optional<double> quota{};  // cpu_quota()
};
/// Of this process.
ThreadHints thread_hints();

/// `asked` threads; 0: as OMP_NUM_THREADS says, else one on each core, but no more than the quota
/// of a control group (threads that wait for one that is held up lose more than they bring).
/// UsageError: kYes and more threads than the process may run on.
ThreadPlan plan_threads(const Cpus& cpus, const ThreadHints& hints, int64_t asked, Pinning pinning);

/// Plans, and sets LibTorch's and our threads so. The first thread is pinned never: what it starts
/// (decoders of media) would have to stay on its core; with all others in their places it has the
/// one that is left. Call before any tensor work.
ThreadPlan use_threads(int64_t asked, Pinning pinning);

}  // namespace euromodal
