// sharded_blocks.h — parallel.shard_frozen on GPUs: of the frozen weights of each block of the
// backbone a rank's GPU holds a slice, and its node's ranks have all of it together. A block is
// gathered from the peers' memory while the block before it computes (peer_slices.h), and its place
// is taken by another once it has been used. No rank waits for another: ranks may make as many
// passes as their batches need. Idea: FSDP (Zhao et al. 2023, arXiv:2304.11277) without reduction.
#pragma once
#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "backbone/nn/block_hooks.h"
#include "backbone/weights/safetensors.h"
#include "training/dist/collectives.h"
#include "training/dist/peer_slices.h"

namespace euromodal {

class ShardedBlocks final : public BlockHooks {
 public:
  /// One block computes in backward, one may be computed again, one is on its way.
  static constexpr size_t kPlaces = 3;

  /// Every rank of the node. `blocks`: the frozen tensors of each block, contiguous on the host and
  /// the same on all ranks; they are kept (files that are mapped cost nothing), the model's own are
  /// empty from here on but between the calls of BlockHooks. `slices` gives the memory for this
  /// rank's share of them.
  ShardedBlocks(const std::vector<std::vector<NamedTensor>>& blocks, int rank, int ranks,
                at::Device device,
                const std::function<std::unique_ptr<PeerSlices>(int64_t bytes)>& slices);

  void before_forward(int64_t block) override { use(block, +1); }
  void after_forward(int64_t block) override { done(block); }
  void before_backward(int64_t block) override { use(block, -1); }
  void after_backward(int64_t block) override { done(block); }

  /// The model's tensors are those of the host again, for good (to save them).
  void give_back();

  int64_t own_bytes() const { return own_bytes_; }  // of this rank's slices
  int64_t place_bytes() const { return static_cast<int64_t>(kPlaces) * largest_; }
  /// Blocks that were asked for, and those of them that were not on their way yet.
  int64_t uses() const { return uses_; }
  int64_t late() const { return late_; }

 private:
  struct Piece {  // a tensor of a block
    at::Tensor tensor, host;
    int64_t offset = 0;  // bytes, in the block
  };
  struct Block {
    std::vector<Piece> pieces;
    int64_t bytes = 0;
    std::vector<int64_t> bounds;   // bytes [bounds[r], bounds[r + 1]) are rank r's ...
    std::vector<int64_t> offsets;  // ... from here on in its memory
  };
  struct Place {
    at::Tensor bytes{};  // [largest_] u8
    int64_t block = -1;
    int64_t users = 0;
    int64_t stamp = 0;  // of its last use
  };

  void use(int64_t block, int64_t step);
  void done(int64_t block);
  Place* holding(int64_t block);
  Place* unused();
  void fetch(int64_t block, Place& place);

  std::vector<Block> blocks_;
  std::array<Place, kPlaces> places_;
  std::unique_ptr<PeerSlices> slices_;
  int64_t own_bytes_ = 0, largest_ = 0, uses_ = 0, late_ = 0;
};

/// The frozen tensors of each block by the names of an objective's parameters, "backbone.model.
/// layers.N.": one entry a block, also where it has none.
std::vector<std::vector<NamedTensor>> frozen_blocks(const std::vector<NamedTensor>& parameters,
                                                    const std::vector<NamedTensor>& trainable,
                                                    int64_t blocks);

}  // namespace euromodal
