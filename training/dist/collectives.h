// collectives.h — what ranks do together, behind one interface: MPI for CPU ranks, or one process
// alone. Every rank enters every collective, in the same order, whatever its local batch holds.
// Host buffers; no torch here. Errors are DistError naming rank, operation and phase; a rank that
// dies, throws or hangs ends all ranks (no hang, exit code not zero).
//
//   auto world = make_world();                       // in main's thread, once, kept to the end
//   world->set_phase("step 120", /*deadline_s=*/300);
//   world->all_reduce_sum(gradients.data(), count);
//
// Sums of floats are taken in order of ranks, number by number: ((r0 + r1) + r2) + ... Their bits
// depend on the ranks' values alone, not on how an array is cut into calls or slices, on what runs
// at the same time, or on an MPI library's algorithm.
//
// What main does with an exception: abort_world(code, message), then its own report and exit code.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"

namespace euromodal {

/// Slices of an array, one for each rank: rank r's is [slices[r], slices[r + 1]). size() + 1
/// ascending numbers from 0; equal neighbours are an empty slice. The same on every rank.
using Slices = std::vector<int64_t>;
/// `count` numbers in `ranks` slices of about equal length.
Slices even_slices(int64_t count, int ranks);

/// A collective on its way. Its buffers stay where they are until it is done. Operations move on
/// inside test() and inside the wait of any collective of the same world, and only there.
class Pending {
 public:
  virtual ~Pending() = default;
  /// Does what can be done without waiting; true when the operation is done.
  virtual bool test() = 0;
  /// Until done, at most the deadline of the phase.
  virtual void wait() = 0;
};

/// A sum over ranks of which each rank keeps its own slice.
struct ScatterSum {
  const float* data = nullptr;  // this rank's addends, slices.back() numbers
  Slices slices{};
  /// This rank's slice of the sum. May be the same place in `data` (data + slices[rank]).
  float* out = nullptr;
  /// out = ((out + r0) + r1) + ... instead of (r0 + r1) + ...
  bool onto_out = false;
  /// Only ranks below this give addends (the data of the others is not looked at); -1: all.
  int ranks = -1;
};

/// Bytes that the ranks of a node hold once: rank 0 of the group fills them, then all read them. A
/// rank waits for the others of its group when it lets go of them (not with an exception passing).
class NodeMemory {
 public:
  virtual ~NodeMemory() = default;
  /// This rank's address of the bytes, which begin at a page.
  virtual char* data() = 0;
  virtual int64_t bytes() const = 0;
  /// From here on a write by this rank ends it (SIGSEGV). What rank 0 wrote before its seal() is
  /// seen by a rank whose seal() follows a barrier of both.
  virtual void seal() = 0;
};

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
  /// Seconds that this rank has spent so far inside collectives and waits; 0 where nobody measures
  /// (a world that is not watched).
  virtual double waited_s() const { return 0.0; }
  virtual void barrier() = 0;
  /// `bytes` is the same on every rank.
  virtual void broadcast(void* data, int64_t bytes, int root) = 0;
  /// In place, sum over ranks. `count` is the same on every rank. Floats are added in order of
  /// ranks, doubles in any fixed order.
  void all_reduce_sum(float* data, int64_t count) { start_all_reduce_sum(data, count)->wait(); }
  virtual void all_reduce_sum(double* data, int64_t count) = 0;
  virtual void all_reduce_max(double* data, int64_t count) = 0;
  void reduce_scatter_sum(const ScatterSum& sum) { start_reduce_scatter_sum(sum)->wait(); }
  /// In place: this rank's slice of `data` goes to every other rank. Slices are in bytes.
  void all_gather_slices(void* data, const Slices& bytes) {
    start_all_gather_slices(data, bytes)->wait();
  }
  /// The slices of all ranks (in bytes) one after the other in `whole` of rank `root`; the others
  /// give only `own`, this rank's slice, and need no room for the whole.
  virtual void gather_slices(const void* own, const Slices& bytes, void* whole, int root) = 0;
  /// Operations without waiting. Every rank starts its operations in the same order; they may be
  /// tested and waited for in any.
  virtual std::unique_ptr<Pending> start_all_reduce_sum(float* data, int64_t count) = 0;
  virtual std::unique_ptr<Pending> start_reduce_scatter_sum(const ScatterSum& sum) = 0;
  virtual std::unique_ptr<Pending> start_all_gather_slices(void* data, const Slices& bytes) = 0;
  /// `bytes` (any number, also 0) of every rank, one after the other in order of ranks.
  virtual std::vector<char> all_gather(const void* data, int64_t bytes) = 0;
  /// Deterministic mode: `parts` are this rank's addends (any number, also none), each `count`
  /// floats, numbered part_ids (ascending; over all ranks 0..P-1 once each, else DistError). Result
  /// on every rank = ((part 0 + part 1) + part 2) + ...: the same bits for any number of ranks.
  /// `out` may be one of the parts.
  virtual void ordered_sum(const std::vector<const float*>& parts,
                           const std::vector<int64_t>& part_ids, int64_t count, float* out) = 0;
  /// Memory of this group's ranks together, who must be on one node: world.node().node_memory(n).
  /// `bytes` as rank 0 of the group says; the others' is not looked at. Every rank of the group
  /// calls it; DistError when the node has too little shared memory. The world outlives it.
  virtual std::unique_ptr<NodeMemory> node_memory(int64_t bytes) = 0;
  /// Groups, which live as long as this world and follow its phases: the ranks of this node, and
  /// the ranks of all nodes that have this rank's number on theirs. In a group of one node, node()
  /// is the group itself and cross() is one rank alone; in a cross group it is the other way round.
  virtual Collectives& node() = 0;
  virtual Collectives& cross() = 0;
};

constexpr int kDeadlineExit = 42;

struct WorldOptions {
  double setup_deadline_s = 900.0;  // of the first phase, "setup", and of the last, "shutdown"
  int64_t chunk_bytes = int64_t{1} << 30;     // largest single MPI transfer (MPI counts are int)
  int64_t ordered_bytes = int64_t{16} << 20;  // memory that one ordered sum may take for addends
  int ranks_per_node = 0;  // 0: as MPI finds them; else neighbouring ranks count as a node
  /// Called in a collective once every rank has come: its group ("", "node", "cross"), its number
  /// there, from 1.
  std::function<void(const std::string& group, int64_t number)> arrived{};
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

}  // namespace euromodal
