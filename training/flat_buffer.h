// flat_buffer.h — the trainable parameters as a few arrays (buckets): a parameter is a view of its
// bucket's values, so that a bucket is reduced, updated and sent as one. Values have the
// parameters' dtype; fp32 master values are the values themselves where that is f32, else an array
// beside them. A rank keeps master values and state for the part of a bucket that it updates: its
// own slice of a sharded bucket, else all of it.
//
// ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054): stage 0 shards Muon's groups alone (each matrix
// is orthogonalised by one rank anyway), stage 1 all, stage 2 also holds gradients only as slices
// (gradient_sync.h). The stage changes no bit of what is computed.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/weights/weights.h"
#include "training/dist/collectives.h"
#include "training/dist/device_collectives.h"
#include "training/parameter_groups.h"

namespace euromodal {

/// Where a parameter lies: [offset, offset + count) of its bucket.
struct FlatSlot {
  std::string name;
  at::Tensor parameter;
  std::vector<int64_t> shape;
  int64_t group = 0;
  int64_t bucket = 0, offset = 0, count = 0;
};

struct FlatBucket {
  int64_t group = 0;
  at::ScalarType dtype = at::kFloat;
  int64_t count = 0;
  std::vector<int64_t> slots;  // indices, in order of offset
  Slices slices;               // of the ranks
  bool sharded = false;
  int64_t begin = 0, end = 0;  // the numbers that this rank updates
  at::Tensor values{};         // [count], of `dtype`
  at::Tensor master{};         // [end - begin] f32; a view of `values` where they are f32
  at::Tensor gradient{};       // [end - begin] f32, summed over all ranks; set by GradientSync
  at::Tensor own_values() const { return values.narrow(0, begin, end - begin); }
};

/// A further handle on a parameter (same name and shape) whose gradient is summed apart and added
/// at the end: a weight used in two places then gets its gradient in an order that does not depend
/// on how samples were packed.
struct FlatAlias {
  int64_t slot = 0;
  at::Tensor handle;
};

/// Values that are kept like master values: one for each number that this rank updates.
struct OwnedTensor {
  std::string name;
  int64_t slot = 0;
  at::Tensor own;  // [end - begin] f32 of the slot's bucket
};

struct FlatOptions {
  int64_t bucket_bytes = 25'000'000;  // of fp32 gradients
  int zero = 0;                       // 0, 1 or 2
  int rank = 0, ranks = 1;
  /// Of several ranks whose parameters lie on GPUs; outlives the buffer.
  DeviceCollectives* device = nullptr;
};

class FlatBuffer {
 public:
  /// Takes over `trainable`, in the order of their use (their values are kept, their storage
  /// becomes a part of a bucket), and makes them require gradients. `group_of[i]`: group of tensor
  /// i. Aliased parameters have buckets of their own.
  FlatBuffer(const std::vector<NamedTensor>& trainable, const std::vector<int64_t>& group_of,
             const std::vector<GroupOptions>& groups, const std::vector<NamedTensor>& aliases,
             const FlatOptions& options);
  FlatBuffer(const FlatBuffer&) = delete;
  FlatBuffer& operator=(const FlatBuffer&) = delete;
  /// Where parameters, master values, gradients and what is kept like them lie.
  at::TensorOptions device() const;
  bool on_cuda() const { return device().device().is_cuda(); }

  const std::vector<FlatSlot>& slots() const { return slots_; }  // in the order of `trainable`
  std::vector<FlatBucket>& buckets() { return buckets_; }
  const std::vector<FlatBucket>& buckets() const { return buckets_; }
  const std::vector<FlatAlias>& aliases() const { return aliases_; }
  const FlatOptions& options() const { return options_; }
  int64_t size() const { return size_; }  // numbers in all

  /// Values like the master ones, all zero: optimiser state, averages.
  std::vector<at::Tensor> make_owned() const;
  /// The master values by parameter name.
  std::vector<OwnedTensor> master() const;

  /// After an update: round() of every bucket, then share().
  void publish(Collectives& world);
  /// This rank's values take the rounded master values.
  static void round(const FlatBucket& bucket);
  /// Every rank gets the slices of the others (on GPUs, the caller's stream does; the host does not
  /// wait).
  void share(Collectives& world);

  /// Rank 0: the whole tensor in its shape, gathered from the ranks that own it; else undefined.
  /// Every rank calls it; rank 0 needs memory for this one tensor.
  at::Tensor gather(const OwnedTensor& tensor, Collectives& world) const;
  /// This rank's part of the whole tensor.
  void put(const OwnedTensor& tensor, const at::Tensor& whole) const;
  /// A parameter gets other values (f32, whole; without communication).
  void set_parameter(int64_t slot, const at::Tensor& whole);

 private:
  std::vector<FlatSlot> slots_;
  std::vector<FlatBucket> buckets_;
  std::vector<FlatAlias> aliases_;
  FlatOptions options_;
  int64_t size_ = 0;
};

}  // namespace euromodal
