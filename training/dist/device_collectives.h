// device_collectives.h — collectives on buffers in GPU memory, one rank a GPU: NCCL behind one
// interface, in libeuromodal_cuda.so. Work is queued on a stream of its own, behind what the
// caller's stream has queued so far; the host does not wait until wait() or join() is called.
//
//   const auto device = open_device("cuda");                       // loads libeuromodal_cuda.so
//   const auto gpu = make_device_collectives(world, {.stream = stream});   // every rank
//   gpu->set_phase("step 7", 600.0);
//   gpu->all_reduce_sum(gradient, count, DeviceType::kF32, DeviceGroup::kWorld);
//   gpu->join();      // the caller's stream goes on only behind the sum; the host does not wait
//   gpu->wait();      // the host waits, at most the phase's deadline
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "training/dist/collectives.h"
#include "training/dist/peer_slices.h"

namespace euromodal {

enum class DeviceType { kF32, kBf16, kU8, kF64 };
int64_t device_type_bytes(DeviceType type);  // of one number
/// The ranks of a call: all, those of this node, or those with this rank's number on every node.
enum class DeviceGroup { kWorld, kNode, kCross };

class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;
  virtual int rank(DeviceGroup group) const = 0;
  virtual int size(DeviceGroup group) const = 0;
  /// Names what follows, with the seconds that one wait may take. DistError unless deadline_s > 0.
  virtual void set_phase(const std::string& phase, double deadline_s) = 0;
  /// In place. Every rank queues the same calls in the same order. The sum's order is NCCL's: the
  /// same bits on every rank, not on another number of them.
  virtual void all_reduce_sum(void* data, int64_t count, DeviceType type, DeviceGroup group) = 0;
  /// `data` holds size(group) * count numbers; this rank's sum lands in out[count], which may be
  /// its place in `data` (data + rank * count).
  virtual void reduce_scatter_sum(const void* data, void* out, int64_t count, DeviceType type,
                                  DeviceGroup group) = 0;
  /// `count` numbers of every rank, one after the other in out; `data` may be this rank's place.
  virtual void all_gather(const void* data, void* out, int64_t count, DeviceType type,
                          DeviceGroup group) = 0;
  virtual void broadcast(void* data, int64_t count, DeviceType type, int root,
                         DeviceGroup group) = 0;
  /// As reduce_scatter_sum(), in slices of any lengths (slices[size(group)] numbers): this rank's
  /// sum lands in `out`, which may be its slice of `data`.
  virtual void reduce_scatter_slices(const void* data, const Slices& slices, void* out,
                                     DeviceType type, DeviceGroup group) = 0;
  /// In place: this rank's slice of `data` goes to every other rank. Slices are in numbers.
  virtual void all_gather_slices(void* data, const Slices& slices, DeviceType type,
                                 DeviceGroup group) = 0;
  /// `bytes` of this rank's GPU memory for its node to read (any number, also 0). Every rank of the
  /// node calls it; this object outlives the result. DistError when there is too little memory, or
  /// when a GPU of the node cannot read another's.
  virtual std::unique_ptr<PeerSlices> peer_slices(int64_t bytes) = 0;
  /// What the caller's stream queues from here on runs behind every call so far.
  virtual void join() = 0;
  /// The host waits for every call so far. DistError when NCCL reports a fault; past the deadline
  /// the communicators are aborted and DistError names phase, call and seconds. Both leave this
  /// object unusable.
  virtual void wait() = 0;
};

struct DeviceOptions {
  void* stream = nullptr;  // cudaStream_t of the caller's work; null: the default stream
  int device = 0;          // CUDA device of this rank
  double setup_deadline_s = 900.0;
  int ranks_per_id = 256;  // of ncclCommInitRankScalable: one unique id for so many ranks
};

using DeviceCollectivesFactory =
    std::function<std::unique_ptr<DeviceCollectives>(Collectives& world, const DeviceOptions&)>;

/// Called by libeuromodal_cuda.so when it is loaded.
bool register_device_collectives(DeviceCollectivesFactory factory);
/// Every rank calls it; `world` carries the set-up (MPI) and outlives the result. DistError when
/// the CUDA library is not loaded (open_device("cuda") loads it), and for faults of the set-up.
std::unique_ptr<DeviceCollectives> make_device_collectives(Collectives& world,
                                                           const DeviceOptions& options);

}  // namespace euromodal
