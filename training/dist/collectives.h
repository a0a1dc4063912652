// collectives.h — what ranks do together, behind one interface: MPI for CPU ranks, one process
// alone, (NCCL later). Every rank enters every collective. Host buffers; no torch here. Errors are
// DistError naming rank, operation and phase; a rank that dies or hangs ends all ranks within the
// deadline.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace euromodal {

class Collectives {
 public:
  virtual ~Collectives() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int local_rank() const = 0;  // on this node
  virtual int local_size() const = 0;
  /// Names what follows ("step 120", "checkpoint") in messages, with the seconds a collective may
  /// take before the run is ended (exit code kDeadlineExit).
  virtual void set_phase(const std::string& phase, double deadline_s) = 0;
  virtual void barrier() = 0;
  virtual void broadcast(void* data, int64_t bytes, int root) = 0;
  /// In place, sum over ranks. With few ranks and the same order on every rank; not independent of
  /// the number of ranks (see ordered_sum).
  virtual void all_reduce_sum(float* data, int64_t count) = 0;
  virtual void all_reduce_sum(double* data, int64_t count) = 0;
  virtual void all_reduce_max(double* data, int64_t count) = 0;
  /// counts[r] bytes from rank r, one after the other, on every rank.
  virtual std::vector<char> all_gather(const void* data, int64_t bytes) = 0;
  /// Deterministic mode: `parts` are this rank's addends, each `count` floats, numbered part_ids
  /// (ascending; over all ranks 0..P-1 once each). Result on every rank = ((part 0 + part 1) + part
  /// 2) + ...: the same bits for any number of ranks.
  virtual void ordered_sum(const std::vector<const float*>& parts,
                           const std::vector<int64_t>& part_ids, int64_t count, float* out) = 0;
};

constexpr int kDeadlineExit = 42;

/// The world of this process: MPI when started by mpirun or srun, else one rank. Call once, keep it
/// to the end of main.
std::unique_ptr<Collectives> make_world();
/// One rank alone, without MPI (tests, tools).
std::unique_ptr<Collectives> make_single();

/// True when started under mpirun/srun (environment), without initialising MPI.
bool launched_by_mpi();

}  // namespace euromodal
