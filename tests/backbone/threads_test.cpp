// threads_test.cpp — how many threads there are and where: planned for machines that are made up,
// done on this one.
#include "backbone/threads.h"

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include "core/error.h"

namespace euromodal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Two nodes of two cores with two hardware threads each.
const Cpus kTwoNodes{{0, 1, 2, 3, 4, 5, 6, 7}, 4, 2};
const Cpus kOneNode{{0, 2}, 2, 1};

TEST(ThreadsTest, OneOnEachCoreUnlessSomebodySaysOtherwise) {
  EXPECT_EQ(plan_threads(kTwoNodes, {}, 0, Pinning::kNo).threads, 4);
  EXPECT_EQ(plan_threads(kTwoNodes, {.omp_threads = 3}, 0, Pinning::kNo).threads, 3);
  EXPECT_EQ(plan_threads(kTwoNodes, {.omp_threads = 3}, 8, Pinning::kNo).threads, 8);
}

TEST(ThreadsTest, NoMoreThanTheQuota) {
  EXPECT_EQ(plan_threads(kTwoNodes, {.quota = 2.5}, 0, Pinning::kNo).threads, 2);
  EXPECT_EQ(plan_threads(kTwoNodes, {.quota = 0.5}, 0, Pinning::kNo).threads, 1);
  EXPECT_EQ(plan_threads(kTwoNodes, {.quota = 100.0}, 0, Pinning::kNo).threads, 4);
  EXPECT_EQ(plan_threads(kTwoNodes, {.quota = 1.0}, 4, Pinning::kNo).threads, 4);
}

TEST(ThreadsTest, PinnedByItselfOnlyWhereMemoryIsFarAndCoresAreFull) {
  EXPECT_THAT(plan_threads(kTwoNodes, {}, 0, Pinning::kAuto).cpus, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(plan_threads(kTwoNodes, {}, 6, Pinning::kAuto).cpus, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(plan_threads(kTwoNodes, {}, 3, Pinning::kAuto).cpus, IsEmpty());
  EXPECT_THAT(plan_threads(kTwoNodes, {}, 9, Pinning::kAuto).cpus, IsEmpty());
  EXPECT_THAT(plan_threads(kTwoNodes, {.omp_bound = true}, 0, Pinning::kAuto).cpus, IsEmpty());
  EXPECT_THAT(plan_threads(kOneNode, {}, 0, Pinning::kAuto).cpus, IsEmpty());
}

TEST(ThreadsTest, PinnedWhenAskedFor) {
  EXPECT_THAT(plan_threads(kOneNode, {}, 0, Pinning::kYes).cpus, ElementsAre(0, 2));
  EXPECT_THAT(plan_threads(kOneNode, {}, 1, Pinning::kYes).cpus, ElementsAre(0));
  try {
    plan_threads(kOneNode, {}, 3, Pinning::kYes);
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("3 threads for 2 hardware threads"));
  }
}

TEST(ThreadsTest, Words) {
  EXPECT_EQ(parse_pinning("auto"), Pinning::kAuto);
  EXPECT_EQ(parse_pinning("yes"), Pinning::kYes);
  EXPECT_EQ(parse_pinning("no"), Pinning::kNo);
  EXPECT_THROW(parse_pinning("maybe"), UsageError);
}

/// The one hardware thread that each thread of this process is held to; -1: it may go to others.
std::map<pid_t, int> held_to() {
  std::map<pid_t, int> out;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    const pid_t id = std::stoi(task.path().filename());
    cpu_set_t set;
    if (::sched_getaffinity(id, sizeof set, &set) != 0) continue;  // ended
    out[id] = -1;
    for (size_t cpu = 0; CPU_COUNT(&set) == 1 && cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) out[id] = static_cast<int>(cpu);
  }
  return out;
}

TEST(ThreadsTest, ThreadsBehindTheFirstAreHeldInTheirPlaces) {
  const int before = at::get_num_threads();
  cpu_set_t all;
  ASSERT_EQ(::sched_getaffinity(0, sizeof all, &all), 0);
  const auto threads = static_cast<int64_t>(usable_cpus().threads.size());
  if (threads == 1) GTEST_SKIP() << "one hardware thread: nowhere to go from";
  const ThreadPlan plan = use_threads(threads, Pinning::kYes);
  const std::map<pid_t, int> held = held_to();
  for (const auto& [id, cpu] : held) ::sched_setaffinity(id, sizeof all, &all);  // for other tests
  EXPECT_EQ(at::get_num_threads(), threads);
  EXPECT_EQ(held.at(::getpid()), -1);  // the first
  std::multiset<int> places;
  for (const auto& [id, cpu] : held)
    if (cpu >= 0) places.insert(cpu);
  EXPECT_EQ(places, std::multiset<int>(plan.cpus.begin() + 1, plan.cpus.end()));
  at::set_num_threads(before);
}

}  // namespace
}  // namespace euromodal
