// optimizer.h — AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101; as torch.optim.AdamW) and Muon
// (muon.h) over the flat buffer: fp32 values, gradients and state whatever the parameters' dtype,
// one fused loop per group, matrices of one shape orthogonalised together.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/dist/collectives.h"
#include "training/flat_buffer.h"
#include "training/parameter_groups.h"

namespace euromodal {

/// Root of the sum of squares, in f64 by blocks of fixed size: the same bits for any number of
/// threads.
double gradient_norm(const float* gradient, int64_t count);

class Optimizer {
 public:
  /// `one_by_one`: deterministic mode (see orthogonalise_).
  Optimizer(FlatBuffer& buffer, std::vector<GroupOptions> groups, bool one_by_one);

  /// One update from the buffer's gradient times `gradient_scale`, group i at lr · `lr_factors[i]`;
  /// the ranks
  /// of `world` share the work on Muon's matrices (every rank has the same gradient). The
  /// parameters are up to date afterwards.
  void step(const std::vector<double>& lr_factors, double gradient_scale, Collectives& world);

  int64_t steps() const { return steps_; }
  const std::vector<GroupOptions>& groups() const { return groups_; }
  /// State by name, views in the parameters' shapes: "NAME.exp_avg" and "NAME.exp_avg_sq" (adamw),
  /// "NAME.momentum" (muon).
  std::vector<NamedTensor> state() const;
  /// Copies the state back; CheckpointError naming what is missing, left over or misshapen.
  void load_state(const std::vector<NamedTensor>& state, int64_t steps);

 private:
  struct Block {  // `count` matrices of one shape, one after the other
    int64_t offset = 0, count = 0, rows = 0, columns = 0;
  };
  struct Group {
    int64_t begin = 0, end = 0;
    at::Tensor first, second;   // exp_avg and exp_avg_sq, or momentum and the update
    std::vector<Block> blocks;  // muon
  };
  void step_adamw(const GroupOptions& options, Group& group, double lr, double scale);
  void step_muon(const GroupOptions& options, Group& group, double lr, double scale,
                 Collectives& world);

  FlatBuffer* buffer_;
  std::vector<GroupOptions> groups_;
  std::vector<Group> states_;
  bool one_by_one_;
  int64_t steps_ = 0;
};

}  // namespace euromodal
