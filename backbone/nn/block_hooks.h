// block_hooks.h — who wants to know when a stack of blocks computes with the weights of one of its
// blocks: sharded frozen weights are gathered before and freed after.
#pragma once
#include <cstdint>

namespace euromodal {

/// Called on the thread that computes, in pairs per block: before_X(i), all use of block i's
/// weights, after_X(i). Forward goes up through the blocks. Backward comes down, and only through
/// blocks that have a graph: below the lowest of them nothing is called. With activation
/// checkpointing the blocks that are computed again are announced by forward calls once more,
/// inside the backward pass; a block whose weights are there already (between its before_backward
/// and after_backward) is not announced again. At most one block is open in backward, besides those
/// that are computed again.
///
/// Operators keep handles on frozen weights for backward, not copies: a hook that frees a weight
/// between the passes does so by set_data() on the model's own tensor, and fills it the same way.
class BlockHooks {
 public:
  virtual ~BlockHooks() = default;
  virtual void before_forward(int64_t block) = 0;
  virtual void after_forward(int64_t block) = 0;
  /// The gradient of the block's output has come in.
  virtual void before_backward(int64_t block) = 0;
  /// The gradient of its input is complete (or, where its input needs none, the backward pass is
  /// over), and so are the gradients of its parameters.
  virtual void after_backward(int64_t block) = 0;
};

}  // namespace euromodal
