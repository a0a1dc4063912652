// peer_slices.h — GPU memory of a node's ranks that each of them reads whenever it likes, without
// the others doing anything: no collective, so ranks need not make equally many passes. For what
// does not change after seal(). Over NVLink (CUDA IPC) with NCCL's collectives
// (device_collectives.h).
#pragma once
#include <cstdint>

namespace euromodal {

/// Copies are queued on a stream of their own; the host does not wait. The destructor waits for
/// this rank's copies and for the other ranks of the node (not with an exception passing).
class PeerSlices {
 public:
  virtual ~PeerSlices() = default;
  /// This rank's memory, to be filled before seal().
  virtual void* own() = 0;
  /// Every rank of the node: what all have filled so far can be read from here on.
  virtual void seal() = 0;
  /// Copies bytes [offset, offset + bytes) of a rank's memory (its number on the node) to `to`, in
  /// memory of this rank's GPU. DistError for a range that the rank does not have.
  virtual void copy(int rank, int64_t offset, int64_t bytes, void* to) = 0;
  /// Copies from here on run behind what the caller's stream has queued so far.
  virtual void follow() = 0;
  /// What the caller's stream queues from here on runs behind every copy so far.
  virtual void join() = 0;
};

}  // namespace euromodal
