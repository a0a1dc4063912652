// world_test.cpp — the world of one rank in this process, and runs under mpirun that must end: a
// rank that throws, dies, stops, sleeps, leaves, or is in another collective.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "tests/training/dist/mpi_run.h"
#include "training/dist/collectives.h"
#include "training/dist/launcher.h"

namespace euromodal {
namespace {

using testing::HasSubstr;

TEST(SingleWorldTest, CollectivesAreTheIdentity) {
  const auto world = make_single();
  EXPECT_EQ(world->rank(), 0);
  EXPECT_EQ(world->size(), 1);
  EXPECT_EQ(world->local_size(), 1);
  std::vector<float> x = {1.5F, -2.0F};
  world->set_phase("step 1", 1.0);
  world->barrier();
  world->all_reduce_sum(x.data(), 2);
  world->broadcast(x.data(), 8, 0);
  world->all_gather_slices(x.data(), {0, 8});
  EXPECT_TRUE(world->start_all_reduce_sum(x.data(), 2)->test());
  EXPECT_THAT(x, testing::ElementsAre(1.5F, -2.0F));
  EXPECT_EQ(&world->node(), world.get());
  EXPECT_EQ(&world->cross(), world.get());
  EXPECT_THAT(world->all_gather("abc", 3), testing::ElementsAre('a', 'b', 'c'));
  EXPECT_TRUE(world->all_gather(nullptr, 0).empty());
  EXPECT_THROW(world->set_phase("step 1", 0.0), DistError);
  EXPECT_THROW(world->broadcast(x.data(), 8, 1), DistError);
}

TEST(SingleWorldTest, OrderedSumAddsFromPartZeroUpwards) {
  const auto world = make_single();
  // (1e8 + 1) - 1e8 is 0 in f32, (1e8 - 1e8) + 1 is 1: the order is visible.
  const float big = 1e8F, one = 1.0F, minus = -1e8F;
  float out = -1.0F;
  world->ordered_sum({&big, &one, &minus}, {0, 1, 2}, 1, &out);
  EXPECT_EQ(out, 0.0F);
  world->ordered_sum({&big, &one, &minus}, {0, 2, 1}, 1, &out);
  EXPECT_EQ(out, 1.0F);
  world->ordered_sum({}, {}, 1, &out);
  EXPECT_EQ(out, 0.0F);
  std::vector<float> a(5000, 1.0F), b(5000, 2.0F);
  world->ordered_sum({a.data(), b.data()}, {0, 1}, 5000, b.data());  // in place
  EXPECT_THAT(b, testing::Each(3.0F));
}

TEST(SingleWorldTest, ScatterSumAddsOntoWhatIsThere) {
  const auto world = make_single();
  const std::vector<float> x = {1.5F, -2.0F};
  std::vector<float> out = {10.0F, 20.0F};
  world->reduce_scatter_sum(
      {.data = x.data(), .slices = {0, 2}, .out = out.data(), .onto_out = true});
  EXPECT_THAT(out, testing::ElementsAre(11.5F, 18.0F));
  world->reduce_scatter_sum({.data = x.data(), .slices = {0, 2}, .out = out.data()});
  EXPECT_EQ(out, x);
  world->reduce_scatter_sum({.data = x.data(), .slices = {0, 2}, .out = out.data(), .ranks = 0});
  EXPECT_THAT(out, testing::Each(0.0F));
  EXPECT_THROW(
      world->reduce_scatter_sum({.data = x.data(), .slices = {0, 1, 2}, .out = out.data()}),
      DistError);
}

TEST(SingleWorldTest, NodeMemoryIsWholePagesThatAreSealed) {
  const auto world = make_single();
  const auto memory = world->node().node_memory(5000);
  EXPECT_EQ(memory->bytes(), 5000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % 64, 0U);
  std::fill_n(memory->data(), 5000, 'x');
  memory->seal();
  EXPECT_EQ(memory->data()[4999], 'x');
  EXPECT_DEATH(memory->data()[4999] = 'y', "");
  EXPECT_EQ(world->node_memory(0)->bytes(), 0);
  EXPECT_THROW(world->node_memory(-1), DistError);
}

TEST(SingleWorldTest, EvenSlicesCoverTheWhole) {
  EXPECT_EQ(even_slices(7, 3), (Slices{0, 3, 5, 7}));
  EXPECT_EQ(even_slices(1, 3), (Slices{0, 1, 1, 1}));
  EXPECT_EQ(even_slices(0, 2), (Slices{0, 0, 0}));
}

TEST(SingleWorldTest, PartNumbersMustBeZeroToPMinusOneOnce) {
  const auto world = make_single();
  const float x = 1.0F;
  float out = 0.0F;
  EXPECT_THROW(world->ordered_sum({&x, &x}, {0, 0}, 1, &out), DistError);
  EXPECT_THROW(world->ordered_sum({&x, &x}, {1, 2}, 1, &out), DistError);
  EXPECT_THROW(world->ordered_sum({&x}, {-1}, 1, &out), DistError);
  EXPECT_THROW(world->ordered_sum({&x}, {0, 1}, 1, &out), DistError);
}

TEST(LaunchTest, EnvironmentSaysWhoStartedUs) {
  ASSERT_FALSE(launched_by_mpi());
  using Environment = std::vector<std::pair<const char*, const char*>>;
  struct Case {
    Environment environment;
    std::string launcher;
    int rank, size;
  };
  const Case cases[] = {
      {{{"OMPI_COMM_WORLD_SIZE", "2"}}, "mpirun (Open MPI)", 0, 2},
      {{{"OMPI_COMM_WORLD_SIZE", "8"}, {"OMPI_COMM_WORLD_RANK", "3"}, {"PMIX_RANK", "3"}},
       "mpirun (Open MPI)",
       3,
       8},
      {{{"PMI_SIZE", "4"}, {"PMI_RANK", "1"}, {"PMI_FD", "5"}}, "a PMI launcher", 1, 4},
      {{{"PMIX_RANK", "6"}, {"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_PROCID", "6"}},
       "a PMIx launcher",
       6,
       8},
      {{{"PALS_RANKID", "2"}, {"PMI_SIZE", "16"}}, "a PALS launcher", 2, 16},
      {{{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "2"}}, "srun without PMI", 2, 4},
      // A process that stands alone inside an allocation.
      {{{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}}, "", 0, 1},
  };
  for (const Case& c : cases) {
    for (const auto& [name, value] : c.environment) setenv(name, value, 1);
    const Launch launch = find_launch();
    EXPECT_EQ(launch.launcher, c.launcher);
    EXPECT_EQ(launch.rank, c.rank) << c.launcher;
    EXPECT_EQ(launch.size, c.size) << c.launcher;
    EXPECT_EQ(launched_by_mpi(), !c.launcher.empty());
    for (const auto& [name, value] : c.environment) unsetenv(name);
  }
}

TEST(LaunchTest, RanksThatWouldTrainAloneAreAnError) {
  EXPECT_NO_THROW(check_launch({}, 1, "X"));
  EXPECT_NO_THROW(check_launch({"srun", 0, 4}, 4, "X"));
  try {
    check_launch({"srun without PMI", 0, 4}, 1, "Open MPI v4\nmore");
    FAIL() << "passed";
  } catch (const DistError& e) {
    EXPECT_THAT(e.what(),
                HasSubstr("srun without PMI started 4 ranks but MPI sees 1 (Open MPI v4)"));
    EXPECT_THAT(e.what(), HasSubstr("--mpi=pmix"));
  }
}

TEST(LaunchTest, AbortWorldOfOneProcessReturns) { abort_world(1, "must not be printed"); }

TEST(WorldFaultTest, ThrowingRankEndsAllAndIsNamed) {
  for (const int ranks : {2, 3}) {
    const MpiRun run = run_mpi("throw", ranks);
    EXPECT_EQ(run.code, 1) << run.output;
    EXPECT_THAT(run.output,
                HasSubstr(fmt::format("euromodal: rank {} of {}: corpus.tar: broken on purpose; "
                                      "ending all ranks",
                                      ranks - 1, ranks)));
    EXPECT_LT(run.seconds, 20);
  }
}

TEST(WorldFaultTest, KilledRankEndsAll) {
  const MpiRun run = run_mpi("kill", 2);
  EXPECT_NE(run.code, 0) << run.output;
  EXPECT_THAT(run.output, HasSubstr("signal 9"));
  EXPECT_LT(run.seconds, 20);
}

TEST(WorldFaultTest, StoppedRankEndsAllAtTheDeadline) {
  const MpiRun run = run_mpi("stop", 2);
  EXPECT_EQ(run.code, kDeadlineExit) << run.output;
  EXPECT_THAT(run.output, HasSubstr("rank 0 of 2, barrier, phase 'step 5': waited 1."));
  EXPECT_LT(run.seconds, 20);
}

TEST(WorldFaultTest, SleepingRankEndsAllAtTheDeadline) {
  const MpiRun run = run_mpi("sleep", 3);
  EXPECT_EQ(run.code, kDeadlineExit) << run.output;
  EXPECT_THAT(run.output, HasSubstr("barrier, phase 'step 6': waited 1."));
  EXPECT_THAT(run.output, HasSubstr("of 3"));
  EXPECT_LT(run.seconds, 20);
}

TEST(WorldFaultTest, DifferentCollectivesAreAnErrorNotGarbage) {
  const MpiRun run = run_mpi("mismatch", 2);
  EXPECT_EQ(run.code, 1) << run.output;
  EXPECT_THAT(run.output, HasSubstr("phase 'step 7': the ranks are in different collectives"));
  EXPECT_LT(run.seconds, 20);
  EXPECT_EQ(run_mpi("unequal", 2).code, 1);
}

TEST(WorldFaultTest, NodeMemoryThatTheNodeLacksIsAnError) {
  const MpiRun run = run_mpi("node_memory_huge", 2);
  EXPECT_EQ(run.code, 1) << run.output;
  EXPECT_THAT(run.output, HasSubstr("node group: node_memory, phase 'step 13': "
                                    "MPI_Win_allocate_shared of 11258999068"));
  EXPECT_LT(run.seconds, 20);
}

TEST(WorldFaultTest, WritingToSealedNodeMemoryEndsAll) {
  const MpiRun run = run_mpi("node_memory_write", 2);
  EXPECT_NE(run.code, 0) << run.output;
  EXPECT_THAT(run.output, HasSubstr("ignal 11"));
}

TEST(WorldFaultTest, PendingOperationsNoticeOtherSlicesAndTheDeadline) {
  const MpiRun other = run_mpi("pending_slices", 2);
  EXPECT_EQ(other.code, 1) << other.output;
  EXPECT_THAT(other.output, HasSubstr("reduce_scatter_sum of 8 f32 from 2 ranks, phase 'step 11': "
                                      "the ranks are in different collectives"));
  const MpiRun late = run_mpi("pending_sleep", 2);
  EXPECT_EQ(late.code, kDeadlineExit) << late.output;
  EXPECT_THAT(late.output, HasSubstr("all_reduce_sum of 1 f32, phase 'step 12': waited 1."));
}

TEST(WorldFaultTest, RankThatLeavesEarlyEndsAll) {
  const MpiRun run = run_mpi("leave", 2);
  EXPECT_EQ(run.code, 1) << run.output;
  EXPECT_THAT(run.output, HasSubstr("different collectives"));
  EXPECT_LT(run.seconds, 20);
}

}  // namespace
}  // namespace euromodal
