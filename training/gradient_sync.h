// gradient_sync.h — from backward to the summed gradient: gradients of this rank's micro-batches
// are added up by bucket in fp32, and summed over ranks while backward still runs on what is left.
//
// A step has rounds. In a round every rank adds up its micro-batches; the rounds' sums are added in
// order of (round, rank), number by number. Fast mode has one round; in deterministic mode a round
// is one part of the global batch on each rank, so that the sum is over parts in their order on any
// number of ranks. The sum's bits do not depend on overlap, buckets, ZeRO stage or MPI.
//
// Overlap: a bucket is sent when all its gradients are complete in the last backward of the round.
// Which gradients are still to come is read from the graph before; a parameter that is used where
// the graph does not show it (inside a checkpointed block) is waited for as often as it came
// before, and to the end of backward until that is known. A gradient that comes for a bucket that
// has left is an error, never a wrong sum. Every rank sends the buckets in one order, whatever its
// batch touched: at first the plan's, after the first step the one in which rank 0 saw them ready.
//
// ZeRO-2 holds the summed gradient as slices; a bucket's own addends exist from its first gradient
// until they are sent, and at most kBucketsInFlight buckets are on their way. (With several
// micro-batches in a round the buckets that they touch are held between them.)
//
// On GPUs: buckets lie there, one round; sums are queued on the stream of the buffer's device
// collectives and the host does not wait for them. Their order is that of NCCL, which may not be
// the same with and without ZeRO.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/dist/collectives.h"
#include "training/flat_buffer.h"

namespace torch::autograd {
struct Node;
}

namespace euromodal {

/// Root of the sum of squares, f64, where the gradients lie; on the CPU summed by blocks of fixed
/// size.
struct GradientNorms {
  at::Tensor total;     // scalar
  at::Tensor groups_G;  // by optimiser group
};

class GradientSync {
 public:
  static constexpr size_t kBucketsInFlight = 2;

  /// Takes over the gradients of the buffer's parameters: their grad() stays undefined. Both
  /// outlive this object.
  GradientSync(FlatBuffer& buffer, Collectives& world, bool overlap);
  ~GradientSync();
  GradientSync(const GradientSync&) = delete;
  GradientSync& operator=(const GradientSync&) = delete;

  /// A step of `contributors.size()` rounds; in round k the ranks below contributors[k] have
  /// gradients.
  void begin(std::vector<int> contributors);
  /// Backward of one micro-batch; `last`: of this rank's in this round.
  void backward(const at::Tensor& loss_sum, bool last);
  /// Every rank calls end_round() after each of its rounds, or goes to finish(), which ends those
  /// that are left.
  void end_round();
  /// Afterwards the buckets' gradients are the sums over all ranks and rounds.
  void finish();
  /// Of the summed gradient, the same on every rank; after finish(), every rank calls it. The host
  /// does not wait for a device.
  GradientNorms norms();

  /// fp32 numbers of gradients that are held now, and the most since the last begin().
  int64_t held() const { return held_; }
  int64_t peak() const { return peak_; }
  /// Buckets that were sent before backward was over, in the step that ended last.
  int64_t overlapped() const { return overlapped_; }

 private:
  struct Lane {  // a bucket's gradients, or those of an alias of its one parameter
    FlatBucket* bucket = nullptr;
    bool alias = false;
    at::Tensor local{};  // [count] addends of this rank
    at::Tensor shard{};  // [own slice] sum over ranks and rounds
    bool apart = false;  // `shard` is no part of `local`
    at::Tensor result{};
    int64_t waiting = 0;  // handles whose gradient is still to come
    bool sent = false;
    int64_t last = 0;  // when its latest gradient came, counted in gradients; 0: none in this step
    std::unique_ptr<Pending> pending{};
  };
  struct Handle {  // a parameter or an alias
    at::Tensor tensor;
    std::string name;
    int64_t lane = 0, offset = 0, count = 0;
    std::shared_ptr<torch::autograd::Node> accumulator;
    bool reachable = false, was_reachable = false;
    int64_t fired = 0, hidden = 0;  // in this backward; most beyond the graph's own so far
    int64_t need = 0;
  };

  void add_handle(const at::Tensor& tensor, const FlatSlot& slot, int64_t lane);
  void accumulate(Handle& handle);
  void expect(const at::Tensor& loss_sum);
  void learn();
  void advance();
  void issue(Lane& lane);
  void queue_on_device(Lane& lane);
  void release_queued();
  GradientNorms device_norms();
  void poll();
  void complete(Lane& lane);
  at::Tensor hold(int64_t count);
  void drop(at::Tensor& tensor);
  bool one_round() const { return contributors_.size() == 1; }

  FlatBuffer* buffer_;
  Collectives* world_;
  DeviceCollectives* device_;  // the buffer's: several ranks on GPUs
  bool overlap_, free_local_;
  std::vector<Lane> lanes_;
  std::vector<Handle> handles_;
  std::unordered_map<const torch::autograd::Node*, size_t> handle_of_;
  std::vector<int64_t> first_block_;  // of each slot, in the row of the norm's blocks
  int64_t blocks_ = 0;
  at::Tensor of_group_GB_;  // bool, on the device: which of this rank's gradients are a group's

  std::vector<int64_t> order_;  // lanes
  int64_t fired_ = 0;           // gradients in this step
  bool order_learned_ = false, armed_ = false;
  size_t next_ = 0;  // in order_
  std::vector<int> contributors_;
  size_t round_ = 0;
  std::deque<Lane*> in_flight_;
  std::vector<Lane*> queued_;  // on the device, whose addends a sum may still read
  int64_t held_ = 0, peak_ = 0, overlapped_ = 0;
  std::thread::id owner_ = std::this_thread::get_id();  // MPI is for this thread alone
  std::mutex mutex_;  // backward on a device runs on that device's thread
};

}  // namespace euromodal
