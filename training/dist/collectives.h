// collectives.h — what ranks do together, behind one interface: MPI for CPU ranks, or one process
// alone. Every rank enters every collective, in the same order, whatever its local batch holds.
// Host buffers; no torch here. Errors are DistError naming rank, operation and phase; a rank that
// dies, throws or hangs ends all ranks (no hang, exit code not zero).
//
//   auto world = make_world();                       // in main's thread, once, kept to the end
//   world->set_phase("step 120", /*deadline_s=*/300);
//   world->all_reduce_sum(gradients.data(), count);
//
// What main does with an exception: abort_world(code, message), then its own report and exit code.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"

namespace euromodal {

/// One rank's calls come from the thread that called make_world().
class Collectives {
 public:
  virtual ~Collectives() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int local_rank() const = 0;  // on this node
  virtual int local_size() const = 0;
  /// Names what follows ("step 120", "checkpoint") in messages, with the seconds that one
  /// collective may take before the run is ended (exit code kDeadlineExit). DistError unless
  /// deadline_s > 0.
  virtual void set_phase(const std::string& phase, double deadline_s) = 0;
  virtual void barrier() = 0;
  /// `bytes` is the same on every rank.
  virtual void broadcast(void* data, int64_t bytes, int root) = 0;
  /// In place, sum over ranks: the same bits on every rank and in every run, but not independent of
  /// the number of ranks (see ordered_sum). `count` is the same on every rank.
  virtual void all_reduce_sum(float* data, int64_t count) = 0;
  virtual void all_reduce_sum(double* data, int64_t count) = 0;
  virtual void all_reduce_max(double* data, int64_t count) = 0;
  /// `bytes` (any number, also 0) of every rank, one after the other in order of ranks.
  virtual std::vector<char> all_gather(const void* data, int64_t bytes) = 0;
  /// Deterministic mode: `parts` are this rank's addends (any number, also none), each `count`
  /// floats, numbered part_ids (ascending; over all ranks 0..P-1 once each, else DistError). Result
  /// on every rank = ((part 0 + part 1) + part 2) + ...: the same bits for any number of ranks.
  /// `out` may be one of the parts.
  virtual void ordered_sum(const std::vector<const float*>& parts,
                           const std::vector<int64_t>& part_ids, int64_t count, float* out) = 0;
};

constexpr int kDeadlineExit = 42;

struct WorldOptions {
  double setup_deadline_s = 900.0;  // of the first phase, "setup", and of the last, "shutdown"
  int64_t chunk_bytes = int64_t{1} << 30;     // largest single MPI transfer (MPI counts are int)
  int64_t ordered_bytes = int64_t{16} << 20;  // memory that ordered_sum may take for gathered parts
};

/// The world of this process: MPI when started by mpirun or srun, else one rank. Call once, keep it
/// to the end of main. Its destructor ends MPI, unless an exception is passing through: then the
/// other ranks are still waiting and main must call abort_world().
std::unique_ptr<Collectives> make_world(const WorldOptions& options = {});
/// One rank alone, without MPI (tests, tools).
std::unique_ptr<Collectives> make_single();

/// Ends every rank of the world, for a rank that cannot go on while others wait: prints
/// "euromodal: rank 1 of 2: MESSAGE; ending all ranks" on stderr and does not return. Does nothing
/// where there is no world of several ranks, so that main can call it for every exception.
void abort_world(int code, const std::string& message);

/// True when started under mpirun/srun (environment), without initialising MPI.
bool launched_by_mpi();

}  // namespace euromodal
