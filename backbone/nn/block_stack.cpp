// block_stack.cpp — see block_stack.h.
#include "backbone/nn/block_stack.h"

#include <algorithm>

#include "backbone/nn/block_boundary.h"
#include "backbone/nn/recompute.h"

namespace euromodal {

namespace {

/// One run through a stack; copied into what the graph keeps.
struct StackWalk {
  std::shared_ptr<const StackPass> pass;
  std::shared_ptr<OpenBlocks> open;

  // `there`: the block's weights are at hand, because its backward pass has begun.
  void before(int64_t block, bool there) const {
    if (!there && open->hooks() != nullptr) open->hooks()->before_forward(block);
  }
  void after(int64_t block, bool there) const {
    if (!there && open->hooks() != nullptr) open->hooks()->after_forward(block);
  }

  at::Tensor plain(int64_t block, const at::Tensor& x_TD) const {
    before(block, /*there=*/false);
    const at::Tensor mid_TD = pass->attend(block, block_entry(x_TD, block, open));
    const at::Tensor y_TD = pass->outer(block, mid_TD, pass->inner(block, mid_TD));
    after(block, /*there=*/false);
    return block_exit(y_TD, block, open);
  }

  // The outer projection stays outside of what is computed again while it is frozen: it keeps
  // nothing for its gradient, and nothing in backward reads its output.
  at::Tensor mlp(int64_t block, const at::Tensor& x_TD) const {
    before(block, /*there=*/false);
    const at::Tensor mid_TD = pass->attend(block, block_entry(x_TD, block, open));
    const bool whole = pass->outer_trains(block);
    const std::vector<at::Tensor> out =
        recompute(mid_TD, [pass = pass, block, whole](const at::Tensor& x, bool /*again*/) {
          const at::Tensor inner_TF = pass->inner(block, x);
          return std::vector<at::Tensor>{whole ? pass->outer(block, x, inner_TF) : inner_TF};
        });
    const at::Tensor y_TD = whole ? out[0] : pass->outer(block, mid_TD, out[0]);
    after(block, /*there=*/false);
    return block_exit(y_TD, block, open);
  }

  // What is kept of a region: nothing but its input. -> its output, or, where the outer projection
  // of its last block is frozen, the two arguments of that.
  std::vector<at::Tensor> region(StackRange range, const at::Tensor& x_TD, bool again) const {
    const int64_t last = range.last - 1;
    at::Tensor y_TD = x_TD;
    for (int64_t i = range.first; i < last; ++i) {
      before(i, /*there=*/false);
      if (i > range.first) y_TD = block_entry(y_TD, i, open);
      const at::Tensor mid_TD = pass->attend(i, y_TD);
      y_TD = pass->outer(i, mid_TD, pass->inner(i, mid_TD));
      after(i, /*there=*/false);
      y_TD = block_exit(y_TD, i, open);
    }
    before(last, again);
    if (last > range.first) y_TD = block_entry(y_TD, last, open);
    const at::Tensor mid_TD = pass->attend(last, y_TD);
    const at::Tensor inner_TF = pass->inner(last, mid_TD);
    if (!pass->outer_trains(last)) return {mid_TD, inner_TF};
    return {pass->outer(last, mid_TD, inner_TF)};
  }

  at::Tensor kept_input(StackRange range, const at::Tensor& x_TD) const {
    const int64_t last = range.last - 1;
    const std::vector<at::Tensor> out =
        recompute(block_entry(x_TD, range.first, open),
                  [walk = *this, range](const at::Tensor& x, bool again) {
                    return walk.region(range, x, again);
                  });
    const at::Tensor y_TD = out.size() == 1 ? out[0] : pass->outer(last, out[0], out[1]);
    after(last, /*there=*/false);
    return block_exit(y_TD, last, open);
  }

  bool trains(StackRange range) const {
    for (int64_t i = range.first; i < range.last; ++i)
      if (pass->trains(i)) return true;
    return false;
  }
};

}  // namespace

at::Tensor run_stack(const StackRun& run, const at::Tensor& x_TD) {
  const StackWalk walk{run.pass, std::make_shared<OpenBlocks>(run.hooks, run.range.last)};
  const auto kind = run.checkpointing.kind;
  const int64_t step = kind == Checkpointing::Kind::kLayers ? run.checkpointing.every : 1;
  at::Tensor out_TD = x_TD;
  for (int64_t i = run.range.first; i < run.range.last; i += step) {
    const StackRange part{i, std::min(i + step, run.range.last)};
    // below everything that trains there is no graph, and nothing to compute again
    if (kind == Checkpointing::Kind::kNone || (!out_TD.requires_grad() && !walk.trains(part))) {
      for (int64_t block = part.first; block < part.last; ++block)
        out_TD = walk.plain(block, out_TD);
    } else if (kind == Checkpointing::Kind::kMlp) {
      out_TD = walk.mlp(i, out_TD);
    } else {
      out_TD = walk.kept_input(part, out_TD);
    }
  }
  return out_TD;
}

}  // namespace euromodal
