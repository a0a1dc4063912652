// cpus.cpp — see cpus.h.
#include "core/cpus.h"

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>

#include <hwloc.h>

namespace euromodal {

namespace fs = std::filesystem;

namespace {

struct BitmapFree {
  void operator()(hwloc_bitmap_s* set) const { hwloc_bitmap_free(set); }
};
using Bitmap = std::unique_ptr<hwloc_bitmap_s, BitmapFree>;

struct TopologyDestroy {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, TopologyDestroy>;

Topology read_topology() {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return nullptr;
  Topology out(topology);
  hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
  hwloc_topology_set_type_filter(topology, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
  return hwloc_topology_load(topology) == 0 ? std::move(out) : nullptr;
}

/// The numbers in a file of one line, "max" as none.
std::vector<double> numbers_in(const fs::path& file) {
  std::vector<double> out;
  std::ifstream in(file);
  for (double number = 0.0; in >> number;) out.push_back(number);
  return out;
}

void lower(std::optional<double>& least, double quota) {
  if (quota > 0.0) least = std::min(least.value_or(quota), quota);
}

/// The group's and those above it, below `root`.
template <typename Quota>
void lower_by_groups(std::optional<double>& least, const fs::path& root, const std::string& group,
                     Quota quota_of) {
  fs::path path = root / fs::path(group).relative_path();
  for (;;) {
    lower(least, quota_of(path));
    if (path == root || !path.has_relative_path() || path.parent_path() == path) return;
    path = path.parent_path();
  }
}

double quota_v2(const fs::path& group) {
  const std::vector<double> max = numbers_in(group / "cpu.max");  // "max 100000": no number
  return max.size() == 2 && max[1] > 0.0 ? max[0] / max[1] : 0.0;
}

double quota_v1(const fs::path& group) {
  const std::vector<double> quota = numbers_in(group / "cpu.cfs_quota_us"),
                            period = numbers_in(group / "cpu.cfs_period_us");
  return quota.size() == 1 && period.size() == 1 && period[0] > 0.0 ? quota[0] / period[0] : 0.0;
}

}  // namespace

Cpus usable_cpus() {
  const Cpus one{{-1}, 1, 1};
  const Topology topology = read_topology();
  const Bitmap mine(hwloc_bitmap_alloc());
  if (!topology || !mine ||
      hwloc_get_cpubind(topology.get(), mine.get(), HWLOC_CPUBIND_PROCESS) != 0)
    return one;
  hwloc_bitmap_and(mine.get(), mine.get(), hwloc_topology_get_allowed_cpuset(topology.get()));
  std::vector<std::vector<int>> cores;
  const int count = hwloc_get_nbobjs_by_type(topology.get(), HWLOC_OBJ_CORE);
  const Bitmap part(hwloc_bitmap_alloc());
  for (int i = 0; part && i < count; ++i) {
    const hwloc_obj_t core = hwloc_get_obj_by_type(topology.get(), HWLOC_OBJ_CORE, i);
    hwloc_bitmap_and(part.get(), core->cpuset, mine.get());
    std::vector<int> threads;
    for (int cpu = hwloc_bitmap_first(part.get()); cpu >= 0;
         cpu = hwloc_bitmap_next(part.get(), cpu))
      threads.push_back(cpu);
    if (!threads.empty()) cores.push_back(std::move(threads));
  }
  if (cores.empty()) return one;
  Cpus out;
  out.cores = static_cast<int64_t>(cores.size());
  for (size_t nth = 0;; ++nth) {
    const size_t before = out.threads.size();
    for (const std::vector<int>& core : cores)
      if (nth < core.size()) out.threads.push_back(core[nth]);
    if (out.threads.size() == before) break;
  }
  out.memory_nodes = 0;
  const int nodes = hwloc_get_nbobjs_by_type(topology.get(), HWLOC_OBJ_NUMANODE);
  for (int i = 0; i < nodes; ++i) {
    const hwloc_obj_t node = hwloc_get_obj_by_type(topology.get(), HWLOC_OBJ_NUMANODE, i);
    if (hwloc_bitmap_intersects(node->cpuset, mine.get())) ++out.memory_nodes;
  }
  return out;
}

std::optional<double> cpu_quota(const fs::path& system) {
  std::optional<double> least;
  std::ifstream groups(system / "proc/self/cgroup");  // lines of "number:controllers:/path"
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") {
      lower_by_groups(least, system / "sys/fs/cgroup", group, quota_v2);
    } else if (controllers.find(",cpu,") != std::string::npos) {
      lower_by_groups(least, system / "sys/fs/cgroup/cpu", group, quota_v1);
    }
  }
  return least;
}

}  // namespace euromodal
