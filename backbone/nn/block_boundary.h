// block_boundary.h — identities in the graph at the two ends of a block, where the backward pass
// enters and leaves it. T packed rows, D width.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/nn/block_hooks.h"

namespace euromodal {

/// Which blocks of one pass are between before_backward and after_backward.
class OpenBlocks {
 public:
  /// Blocks [0, count); hooks may be null, then nothing is called.
  OpenBlocks(std::shared_ptr<BlockHooks> hooks, int64_t count)
      : hooks_(std::move(hooks)), open_(static_cast<size_t>(count)) {}
  BlockHooks* hooks() const { return hooks_.get(); }
  void open(int64_t block);
  void close(int64_t block);  // of an open block; does nothing otherwise

 private:
  std::shared_ptr<BlockHooks> hooks_;
  std::vector<char> open_;
};

/// x_TD itself, the input of `block`: when its gradient is complete the block is closed.
at::Tensor block_entry(const at::Tensor& x_TD, int64_t block, std::shared_ptr<OpenBlocks> blocks);
/// y_TD itself, the output of `block`: when its gradient comes in the block is opened; should
/// nothing close it before the backward pass ends, the end does.
at::Tensor block_exit(const at::Tensor& y_TD, int64_t block, std::shared_ptr<OpenBlocks> blocks);

}  // namespace euromodal
