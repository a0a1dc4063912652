// cpus_test.cpp — the processors of this machine are counted within the affinity of the process;
// quotas of control groups are found in made-up systems.
#include "core/cpus.h"

#include <set>
#include <thread>

#include <gtest/gtest.h>
#include <sched.h>

#include "core/files.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

TEST(CpusTest, WithinTheAffinityOfTheProcess) {
  cpu_set_t mine;
  ASSERT_EQ(::sched_getaffinity(0, sizeof mine, &mine), 0);
  const Cpus cpus = usable_cpus();
  EXPECT_EQ(static_cast<int>(cpus.threads.size()), CPU_COUNT(&mine));
  EXPECT_GE(cpus.cores, 1);
  EXPECT_LE(cpus.cores, static_cast<int64_t>(cpus.threads.size()));
  EXPECT_GE(cpus.memory_nodes, 1);
  std::set<int> seen;
  for (const int cpu : cpus.threads) {
    EXPECT_TRUE(CPU_ISSET(static_cast<size_t>(cpu), &mine)) << cpu;
    EXPECT_TRUE(seen.insert(cpu).second) << cpu;
  }
}

TEST(CpusTest, FewerAfterTheAffinityShrank) {
  cpu_set_t before, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
  const int last = usable_cpus().threads.back();
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(last), &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  const Cpus cpus = usable_cpus();
  ASSERT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(cpus.threads, std::vector<int>{last});
  EXPECT_EQ(cpus.cores, 1);
}

struct MadeUpFile {
  const char *path, *text;
};

std::optional<double> quota_of(const std::vector<MadeUpFile>& files) {
  const TempDir dir;
  for (const MadeUpFile& file : files) {
    const auto path = dir.path() / file.path;
    std::filesystem::create_directories(path.parent_path());
    write_text_atomic(path, file.text);
  }
  return cpu_quota(dir.path());
}

TEST(CpusTest, QuotaOfVersion2IsTheLeastUpToTheRoot) {
  const MadeUpFile group{"proc/self/cgroup", "0::/batch/job/step\n"};
  EXPECT_EQ(quota_of({group}), std::nullopt);
  EXPECT_EQ(quota_of({group, {"sys/fs/cgroup/batch/job/step/cpu.max", "max 100000\n"}}),
            std::nullopt);
  EXPECT_EQ(quota_of({group, {"sys/fs/cgroup/batch/job/step/cpu.max", "250000 100000\n"}}), 2.5);
  EXPECT_EQ(quota_of({group,
                      {"sys/fs/cgroup/batch/job/step/cpu.max", "800000 100000\n"},
                      {"sys/fs/cgroup/batch/cpu.max", "300000 100000\n"}}),
            3.0);
  EXPECT_EQ(quota_of({{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", "100000 50000\n"}}),
            2.0);
}

TEST(CpusTest, QuotaOfVersion1) {
  const MadeUpFile groups{"proc/self/cgroup", "5:memory:/m\n3:cpu,cpuacct:/job\n0::/\n"};
  EXPECT_EQ(quota_of({groups,
                      {"sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "150000\n"},
                      {"sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n"}}),
            1.5);
  EXPECT_EQ(quota_of({groups,
                      {"sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n"},
                      {"sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n"}}),
            std::nullopt);
}

TEST(CpusTest, WhatIsNoNumberIsNoQuota) {
  const MadeUpFile group{"proc/self/cgroup", "0::/a\nnonsense\n:\n"};
  EXPECT_EQ(quota_of({group, {"sys/fs/cgroup/a/cpu.max", "100000 0\n"}}), std::nullopt);
  EXPECT_EQ(quota_of({group, {"sys/fs/cgroup/a/cpu.max", "many\n"}}), std::nullopt);
  EXPECT_EQ(quota_of({}), std::nullopt);
}

}  // namespace
}  // namespace euromodal
