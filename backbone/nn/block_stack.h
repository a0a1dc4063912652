// block_stack.h — a stack of residual blocks run one after the other: the one loop of backbone and
// encoders, where block hooks are called and activations are kept or computed again. T packed rows,
// D width, F inner width.
#pragma once
#include <cstdint>
#include <memory>

#include <ATen/core/Tensor.h>

#include "backbone/nn/block_hooks.h"
#include "backbone/nn/checkpointing.h"

namespace euromodal {

/// The blocks of one pass: what is shared by all blocks and differs between passes (segments,
/// positions, seeds) is part of it. A block comes in three steps, each a pure function of its
/// arguments, the parameters and the pass: the same call gives the same bits.
class StackPass {
 public:
  virtual ~StackPass() = default;
  /// x_TD [T, D] -> [T, D]: x + attention.
  virtual at::Tensor attend(int64_t block, const at::Tensor& x_TD) const = 0;
  /// mid_TD [T, D] -> [T, F]: the hidden rows of the feed-forward part.
  virtual at::Tensor inner(int64_t block, const at::Tensor& mid_TD) const = 0;
  /// mid_TD [T, D], inner_TF [T, F] -> [T, D]: the block's output, mid + projection of inner.
  virtual at::Tensor outer(int64_t block, const at::Tensor& mid_TD,
                           const at::Tensor& inner_TF) const = 0;
  /// Has the block a parameter that requires grad? And has its outer projection one?
  virtual bool trains(int64_t block) const = 0;
  virtual bool outer_trains(int64_t block) const = 0;
};

/// Blocks [first, last) of a stack.
struct StackRange {
  int64_t first = 0, last = 0;
};

struct StackRun {
  std::shared_ptr<const StackPass> pass;
  StackRange range;
  Checkpointing checkpointing;
  std::shared_ptr<BlockHooks> hooks;  // null: nobody
};

/// x_TD through the blocks of `run.range` -> [T, D]. Values and gradients have the same bits in
/// every mode of checkpointing.
at::Tensor run_stack(const StackRun& run, const at::Tensor& x_TD);

}  // namespace euromodal
