// cpus.h — which processors this process may use: hardware threads and cores by hwloc, and the
// share of time that a control group grants (containers, batch systems).
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace euromodal {

struct Cpus {
  /// Hardware threads that the process may run on, by the system's numbers: the first of every
  /// core, then the second of every core, and so on.
  std::vector<int> threads;
  int64_t cores = 0;
  int64_t memory_nodes = 1;  // that these cores lie at
};

/// Of the affinity of the calling process. Where the machine cannot be read: one core, number -1.
Cpus usable_cpus();

/// CPUs' worth of time in each period that the control group of this process grants at most, as
/// cgroups of version 2 ("cpu.max") or 1 ("cpu.cfs_quota_us") say, the least of the group and those
/// above it; none: no limit. `system`: in place of "/", for tests.
std::optional<double> cpu_quota(const std::filesystem::path& system = "/");

}  // namespace euromodal
