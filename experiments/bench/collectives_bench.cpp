// collectives_bench.cpp — the all-reduce in order of ranks against MPI_Iallreduce, whose order of
// additions is its own: `mpirun -n 2 build/cpu/bin/collectives_bench` prints, for 4 to 64 MiB of
// floats, the time of ours divided by MPI's in the same run. Below 1: ours is faster.
#include <algorithm>
#include <cstdio>
#include <vector>

#include "training/dist/collectives.h"
#include "training/dist/mpi_wait.h"

namespace {

constexpr int kRounds = 15;

// The best of a few rounds, each begun together: other work on the machine only adds time.
template <typename Call>
double bench_best_s(euromodal::Collectives& world, const Call& call) {
  double best = 1e30;
  for (int i = 0; i < kRounds; ++i) {
    world.barrier();
    const double start = MPI_Wtime();
    call();
    double seconds = MPI_Wtime() - start;
    world.all_reduce_max(&seconds, 1);  // as slow as its slowest rank
    best = std::min(best, seconds);
  }
  return best;
}

}  // namespace

int main() {
  const auto world = euromodal::make_world();
  world->set_phase("bench", 120.0);
  euromodal::check<euromodal::UsageError>(world->size() > 1, "start with mpirun -n 2 or more");
  for (const int64_t mib : {4, 16, 64}) {
    const int64_t count = mib << 18;
    std::vector<float> data(static_cast<size_t>(count), 1.0F);
    const double ours = bench_best_s(*world, [&] { world->all_reduce_sum(data.data(), count); });
    const double theirs = bench_best_s(*world, [&] {
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Iallreduce(MPI_IN_PLACE, data.data(), static_cast<int>(count), MPI_FLOAT, MPI_SUM,
                     MPI_COMM_WORLD, &request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    });
    if (world->rank() == 0)
      std::printf("ranks=%d mib=%ld ours_ms=%.2f mpi_ms=%.2f ratio=%.2f\n", world->size(),
                  static_cast<long>(mib), 1e3 * ours, 1e3 * theirs, ours / theirs);
  }
}
