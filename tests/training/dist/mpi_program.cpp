// mpi_program.cpp — what the MPI tests start under mpirun: `tests_training_dist_mpi SCENARIO`.
// A second word is a folder for flight records: the world is then watched (watchdog.h).
// "ops" checks every collective and exits 0 only when all of it holds on every rank; the other
// scenarios do what must end a run (the test that started them looks at exit code and stderr).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <signal.h>
#include <unistd.h>

#include "core/rng.h"
#include "training/dist/collectives.h"
#include "training/dist/watched_world.h"

namespace {

using euromodal::check;
using euromodal::Collectives;
using euromodal::DistError;

// Values of very different size, so that another order of additions gives other bits.
std::vector<std::vector<float>> mpi_test_parts(int64_t parts, int64_t count) {
  std::vector<std::vector<float>> all(parts, std::vector<float>(count));
  for (int64_t p = 0; p < parts; ++p) {
    euromodal::Rng rng = euromodal::Rng(11).fork("part", p);
    for (float& value : all[p])
      value = static_cast<float>(rng.normal() * std::pow(10.0, rng.uniform(-4, 4)));
  }
  return all;
}

void mpi_test_ordered_sum(Collectives& world, int64_t parts, int64_t count) {
  const auto all = mpi_test_parts(parts, count);
  std::vector<const float*> every, mine;
  std::vector<int64_t> every_id(parts), mine_id;
  std::iota(every_id.begin(), every_id.end(), 0);
  for (int64_t p = 0; p < parts; ++p) {
    every.push_back(all[p].data());
    if (p % world.size() != world.rank()) continue;
    mine.push_back(all[p].data());
    mine_id.push_back(p);
  }
  std::vector<float> expected(count), got(count, -1.0F);
  euromodal::make_single()->ordered_sum(every, every_id, count, expected.data());
  world.ordered_sum(mine, mine_id, count, got.data());
  check<DistError>(
      count == 0 || std::memcmp(expected.data(), got.data(), count * sizeof(float)) == 0,
      "ordered_sum of {} parts of {} values differs from one rank's", parts, count);
}

// What rank order means: (r0 + r1) + ..., starting from `start` where there is one.
std::vector<float> mpi_test_rank_sum(const std::vector<std::vector<float>>& all, int ranks,
                                     const float* start, int64_t count) {
  std::vector<float> sum(count, 0.0F);
  for (int64_t i = 0; i < count; ++i) {
    float s = start != nullptr ? start[i] : ranks > 0 ? all[0][i] : 0.0F;
    for (int r = start != nullptr ? 0 : 1; r < ranks; ++r) s += all[r][i];
    sum[i] = s;
  }
  return sum;
}

// Even, skewed, and all to the last rank: sums and gathering of slices, in place and apart.
void mpi_test_slices(Collectives& world, int64_t count) {
  const int n = world.size(), rank = world.rank();
  const auto all = mpi_test_parts(n, count);
  const auto start = mpi_test_parts(n + 1, count).back();
  std::vector<euromodal::Slices> layouts = {
      euromodal::even_slices(count, n), euromodal::Slices(n + 1, 0), euromodal::Slices(n + 1, 0)};
  layouts[1].back() = count;
  for (int r = 1; r <= n; ++r) layouts[2][r] = r == n ? count : count * r * r / (n * n) / 2;
  for (const auto& slices : layouts) {
    const int64_t begin = slices[rank], own = slices[rank + 1] - begin;
    for (int ranks = 0; ranks <= n; ++ranks) {
      for (const bool onto : {false, true}) {
        std::vector<float> data = all[rank],
                           out(start.begin() + begin, start.begin() + begin + own);
        world.reduce_scatter_sum({.data = data.data(),
                                  .slices = slices,
                                  .out = out.data(),
                                  .onto_out = onto,
                                  .ranks = ranks});
        const auto expected = mpi_test_rank_sum(all, ranks, onto ? start.data() : nullptr, count);
        check<DistError>(
            own == 0 || std::memcmp(out.data(), expected.data() + begin, own * sizeof(float)) == 0,
            "reduce_scatter_sum of {} from {} ranks", count, ranks);
      }
    }
    std::vector<float> data = all[rank];
    world.reduce_scatter_sum({.data = data.data(), .slices = slices, .out = data.data() + begin});
    euromodal::Slices bytes;
    for (const int64_t offset : slices) bytes.push_back(4 * offset);
    world.all_gather_slices(data.data(), bytes);
    const auto expected = mpi_test_rank_sum(all, n, nullptr, count);
    check<DistError>(data == expected, "sum and gathering of {} in place", count);
    for (int root = 0; root < n; ++root) {
      std::vector<float> whole(rank == root ? count : 0, 0.0F);
      world.gather_slices(data.data() + begin, bytes, whole.data(), root);
      if (rank == root) check<DistError>(whole == expected, "gathering of {} to one", count);
    }
    data = all[rank];
    world.all_reduce_sum(data.data(), count);
    check<DistError>(data == expected, "all_reduce_sum of {} is not in order of ranks", count);
  }
}

// Many operations at a time, tested and waited for in another order on each rank, with blocking
// collectives and groups in between.
void mpi_test_pending(Collectives& world) {
  constexpr int kOperations = 12;
  const int n = world.size();
  std::vector<std::vector<float>> data, expected;
  std::vector<std::unique_ptr<euromodal::Pending>> pending;
  for (int i = 0; i < kOperations; ++i) {
    const int64_t count = 1 + 7001 * i;
    const auto all = mpi_test_parts(n, count);
    data.push_back(all[world.rank()]);
    expected.push_back(mpi_test_rank_sum(all, n, nullptr, count));
    pending.push_back(world.start_all_reduce_sum(data.back().data(), count));
    if (i % 3 == world.rank() % 3)
      for (const auto& operation : pending) operation->test();
    if (i == 5) world.barrier();
    if (i == 8) world.node().barrier();
  }
  for (int i = 0; i < kOperations; ++i)
    pending[(i * (world.rank() % 2 == 0 ? 5 : 7) + world.rank()) % kOperations]->wait();
  for (const auto& operation : pending)
    check<DistError>(operation->test(), "an operation is not done after its wait");
  check<DistError>(data == expected, "sums beside each other differ");
}

/// Two at a time and one after the other, of which only rank 0 knows the size: each rank sees the
/// bytes at an address of its own, aligned; pages are counted once.
void mpi_test_node_memory(Collectives& node, int64_t bytes) {
  const bool first = node.rank() == 0;
  std::unique_ptr<euromodal::NodeMemory> before;
  for (int round = 0; round < 3; ++round) {
    const int64_t size = round == 1 ? 0 : bytes + round;
    auto memory = node.node_memory(first ? size : -1);
    check<DistError>(
        memory->bytes() == size && reinterpret_cast<uintptr_t>(memory->data()) % 64 == 0,
        "node_memory of {} bytes at {}: expected {}", memory->bytes(),
        static_cast<void*>(memory->data()), size);
    const auto value = [&](int64_t i) { return static_cast<char>(7 * i + round + i / 4096); };
    for (int64_t i = 0; first && i < size; ++i) memory->data()[i] = value(i);
    if (first) memory->seal();
    node.barrier();
    if (!first) memory->seal();
    for (int64_t i = 0; i < size; ++i)
      check<DistError>(memory->data()[i] == value(i), "node_memory: byte {} of {}", i, size);
    before = std::move(memory);  // frees the one of the round before
  }
}

void mpi_test_groups(Collectives& world, int on_node) {
  const int n = world.size(), rank = world.rank(), first = rank / on_node * on_node;
  Collectives &node = world.node(), &cross = world.cross();
  world.set_phase("groups", 60);
  check<DistError>(node.rank() == rank - first && node.size() == std::min(on_node, n - first) &&
                       world.local_rank() == node.rank() && world.local_size() == node.size(),
                   "node group: {} of {}", node.rank(), node.size());
  int same = 0;
  for (int r = rank % on_node; r < n; r += on_node) ++same;
  check<DistError>(cross.rank() == rank / on_node && cross.size() == same, "cross group: {} of {}",
                   cross.rank(), cross.size());
  check<DistError>(&node.node() == &node && node.cross().size() == 1 && &cross.cross() == &cross &&
                       cross.node().size() == 1,
                   "groups of groups");
  // In node, then across, is the sum of all when every node has as many ranks.
  float x = static_cast<float>(1 << rank);
  node.all_reduce_sum(&x, 1);
  const float here = static_cast<float>((1 << (first + node.size())) - (1 << first));
  check<DistError>(x == here, "sum in the node {}", x);
  cross.all_reduce_sum(&x, 1);
  if (n % on_node == 0) check<DistError>(x == static_cast<float>((1 << n) - 1), "sum of all {}", x);
  mpi_test_node_memory(node, 1'000'003);
  mpi_test_slices(node, 1009);
  mpi_test_slices(cross, 1009);
  mpi_test_pending(node);
}

void mpi_test_ops(Collectives& world) {
  const int n = world.size(), rank = world.rank();
  check<DistError>(world.local_size() == n && world.local_rank() == rank, "local rank {} of {}",
                   world.local_rank(), world.local_size());
  world.set_phase("ops", 60);
  world.barrier();
  for (const int64_t bytes : {0, 1, 999, 100'003}) {
    for (int root = 0; root < n; ++root) {
      std::vector<char> data(bytes, static_cast<char>(rank == root ? root + 1 : 0));
      world.broadcast(data.data(), bytes, root);
      for (const char c : data) check<DistError>(c == root + 1, "broadcast from {}", root);
    }
  }
  for (const int64_t count : {0, 1, 7, 30'011}) {
    std::vector<float> f(count);
    std::vector<double> d(count), m(count);
    for (int64_t i = 0; i < count; ++i) {
      f[i] = static_cast<float>(i % 13 + rank);
      d[i] = 0.5 * static_cast<double>(i) + rank;
      m[i] = (i % n == rank) ? 7.0 : -1e300;
    }
    world.all_reduce_sum(f.data(), count);
    world.all_reduce_sum(d.data(), count);
    world.all_reduce_max(m.data(), count);
    for (int64_t i = 0; i < count; ++i) {
      const double ranks = n * (n - 1) / 2;
      check<DistError>(f[i] == static_cast<float>((i % 13) * n + ranks), "sum f32 at {}", i);
      check<DistError>(d[i] == 0.5 * static_cast<double>(i) * n + ranks, "sum f64 at {}", i);
      check<DistError>(m[i] == 7.0, "max at {}", i);
    }
  }
  // All ranks must hold the same bits also where the order of additions matters.
  std::vector<float> wild = mpi_test_parts(n, 10'007)[rank];
  world.all_reduce_sum(wild.data(), static_cast<int64_t>(wild.size()));
  const auto bytes = static_cast<int64_t>(wild.size() * sizeof(float));
  const std::vector<char> copies = world.all_gather(wild.data(), bytes);
  for (int r = 0; r < n; ++r)
    check<DistError>(std::memcmp(copies.data() + r * bytes, wild.data(), bytes) == 0,
                     "all_reduce_sum gives rank {} other bits", r);
  for (const int64_t scale : {0, 1, 5000}) {  // rank r gives r * scale bytes
    const std::vector<char> mine(rank * scale, static_cast<char>('a' + rank));
    const std::vector<char> all = world.all_gather(mine.data(), static_cast<int64_t>(mine.size()));
    std::vector<char> expected;
    for (int r = 0; r < n; ++r)
      expected.insert(expected.end(), r * scale, static_cast<char>('a' + r));
    check<DistError>(all == expected, "all_gather of {} bytes a rank", scale);
  }
  for (const int64_t parts : {1, 2, 3, 8})
    for (const int64_t count : {0, 1, 4097, 50'021}) mpi_test_ordered_sum(world, parts, count);

  for (const int64_t count : {0, 1, 5, 1000, 20'011}) mpi_test_slices(world, count);
  mpi_test_pending(world);

  const float zero = 0.0F;
  float out = 0.0F;
  try {  // number 0 on every rank: the same error everywhere, and the world goes on
    world.ordered_sum({&zero}, {0}, 1, &out);
    check<euromodal::Error>(n == 1, "a part number that is given twice passed");
  } catch (const DistError& e) {
    check<euromodal::Error>(std::string(e.what()).find("given twice") != std::string::npos, "{}",
                            e.what());
  }
  world.barrier();
}

void mpi_test_speed(Collectives& world) {
  std::vector<float> data(1 << 20, 1.0F);
  for (const int64_t count : {int64_t{1}, int64_t{1} << 20}) {
    world.barrier();
    const auto start = std::chrono::steady_clock::now();
    constexpr int kRounds = 50;
    for (int i = 0; i < kRounds; ++i) world.all_reduce_sum(data.data(), count);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (world.rank() == 0)
      std::printf("all_reduce_sum of %ld f32: %.3f ms\n", static_cast<long>(count),
                  1e3 * seconds.count() / kRounds);
  }
}

void mpi_test_run(const std::string& scenario, Collectives& world) {
  const bool last = world.rank() == world.size() - 1;
  if (scenario == "ops" || scenario == "chunks") {
    mpi_test_ops(world);
  } else if (scenario == "speed") {
    mpi_test_speed(world);
  } else if (scenario == "throw") {
    world.set_phase("step 3", 60);
    check<euromodal::DataError>(!last, "corpus.tar: broken on purpose");
    world.barrier();
  } else if (scenario == "kill") {
    world.set_phase("step 4", 60);
    if (last) kill(getpid(), SIGKILL);
    world.barrier();
  } else if (scenario == "stop") {
    world.set_phase("step 5", 1.0);
    world.barrier();
    if (last) kill(getpid(), SIGSTOP);
    world.barrier();
  } else if (scenario == "sleep") {
    world.set_phase("step 6", 1.0);
    if (last) std::this_thread::sleep_for(std::chrono::seconds(60));
    world.barrier();
  } else if (scenario == "mismatch") {
    world.set_phase("step 7", 60);
    float x = 1.0F;
    if (last) {
      world.all_reduce_sum(&x, 1);
    } else {
      world.barrier();
    }
  } else if (scenario == "leave") {  // one rank ends early: its shutdown meets the others' barrier
    world.set_phase("step 8", 60);
    if (!last) world.barrier();
  } else if (scenario == "hang") {  // outside any collective
    world.set_phase("data 10", 1.0);
    world.barrier();
    if (last) std::this_thread::sleep_for(std::chrono::seconds(60));
    world.set_phase("step 10", 30.0);
    world.barrier();
  } else if (scenario == "pending") {  // hangs in compute while a sum is on its way
    world.set_phase("step 12", 1.0);
    std::vector<float> x(1000, 1.0F);
    const auto sum = world.start_all_reduce_sum(x.data(), 1000);
    if (last) std::this_thread::sleep_for(std::chrono::seconds(60));
    sum->wait();
  } else if (scenario == "usr2") {  // every rank is asked for its record and goes on
    world.set_phase("step 11", 60);
    world.barrier();
    kill(getpid(), SIGUSR2);
    for (int i = 0; i < 20; ++i) {
      world.barrier();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  } else if (scenario == "unequal") {
    world.set_phase("step 9", 60);
    std::vector<double> x(5, 1.0);
    world.all_reduce_sum(x.data(), last ? 4 : 5);
  } else if (scenario == "node_memory_huge") {
    world.set_phase("step 13", 60);
    world.node().node_memory(int64_t{1} << 50);
  } else if (scenario == "node_memory_write") {
    world.set_phase("step 14", 60);
    const auto memory = world.node().node_memory(100);
    if (world.rank() == 0) memory->seal();
    world.barrier();
    if (world.rank() != 0) memory->seal();
    if (last) memory->data()[99] = 1;
    world.barrier();
  } else if (scenario == "groups") {
    mpi_test_groups(world, 2);
  } else if (scenario == "pending_slices") {  // noticed where the operation is waited for
    world.set_phase("step 10", 60);
    std::vector<float> x(8, 1.0F);
    euromodal::Slices slices = euromodal::even_slices(8, world.size());
    if (last) --slices[1];
    auto pending = world.start_reduce_scatter_sum(
        {.data = x.data(), .slices = slices, .out = x.data() + slices[world.rank()]});
    world.set_phase("step 11", 60);
    pending->wait();
  } else if (scenario == "pending_sleep") {
    world.set_phase("step 12", 1.0);
    float x = 1.0F;
    if (last) std::this_thread::sleep_for(std::chrono::seconds(60));
    world.start_all_reduce_sum(&x, 1)->wait();
  } else {
    throw euromodal::UsageError("unknown scenario {}", scenario);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string scenario = argc > 1 ? argv[1] : "ops";
  std::unique_ptr<euromodal::Watchdog> watchdog;
  try {
    euromodal::WorldOptions options;
    if (scenario == "chunks") {  // tiny transfers: every loop over chunks runs many rounds
      options.chunk_bytes = 1000;
      options.ordered_bytes = 3000;
    }
    if (scenario == "groups") options.ranks_per_node = 2;
    if (argc > 2) {
      watchdog = std::make_unique<euromodal::Watchdog>(euromodal::WatchdogOptions{
          .folder = argv[2], .grace_s = 0.5, .end = [](int code) { _exit(code); }});
    }
    const auto world = watchdog ? euromodal::make_watched_world(*watchdog, options)
                                : euromodal::make_world(options);
    mpi_test_run(scenario, *world);
    if (world->rank() == 0) std::printf("%s: %d ranks: ok\n", scenario.c_str(), world->size());
    return 0;
  } catch (const std::exception& e) {
    if (watchdog) watchdog->fault(e);
    euromodal::abort_world(1, e.what());
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
