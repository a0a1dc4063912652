// frozen_memory.h — parallel.shard_frozen: the frozen tensors of a model, once for all ranks of a
// node. Ranks of one node map the same memory, so that none waits for another when it computes,
// however many passes each of them makes. What lies in mapped files is once in the node's memory
// anyway and stays where it is; what is trained, each rank has for itself.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "training/dist/collectives.h"
#include "training/objective.h"

namespace euromodal {

struct FrozenTensors {
  std::vector<NamedTensor> own;  // in memory of this process, in the order of the parameters
  int64_t own_bytes = 0;         // of these, each piece of memory counted once
  int64_t mapped_bytes = 0;      // of those in mapped files
};
/// What of `parameters` is not among `trainable`.
FrozenTensors frozen_tensors(const std::vector<NamedTensor>& parameters,
                             const std::vector<NamedTensor>& trainable);

class FrozenMemory {
 public:
  /// Every rank of the node: `make` gives the rank's model, `frozen` what of it is to be shared,
  /// which is then moved to the node's memory (64-byte aligned, read-only). One rank after the
  /// other, so that the node holds at most two copies at any time, and one afterwards. DistError
  /// when a rank's tensors are not those of the node's first rank, bit for bit.
  std::unique_ptr<Objective> make(
      Collectives& node, const std::function<std::unique_ptr<Objective>()>& make,
      const std::function<std::vector<NamedTensor>(const Objective&)>& frozen);

  bool shared() const { return memory_ != nullptr; }
  /// That the ranks of the node hold once.
  int64_t bytes() const { return memory_ ? memory_->bytes() : 0; }

 private:
  std::unique_ptr<NodeMemory> memory_;
};

}  // namespace euromodal
