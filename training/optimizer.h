// optimizer.h — AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101; as torch.optim.AdamW) and Muon
// (muon.h) over the buckets of the flat buffer: fp32 values, gradients and state whatever the
// parameters' dtype, one fused loop per bucket, neighbouring matrices of one shape orthogonalised
// together. A rank updates, and keeps state for, its own part of each bucket.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "training/dist/collectives.h"
#include "training/flat_buffer.h"
#include "training/parameter_groups.h"

namespace euromodal {

/// How an update takes the summed gradient: numbers where the parameters lie, so that the host need
/// not know them.
struct GradientUse {
  at::Tensor factor;   // f32 [1]: the gradient is multiplied with it
  at::Tensor apply{};  // i32 [1]: where it is 0 nothing changes; undefined: 1
};

class Optimizer {
 public:
  /// `one_by_one`: deterministic mode (see orthogonalise_).
  Optimizer(FlatBuffer& buffer, std::vector<GroupOptions> groups, bool one_by_one);

  /// One update from the buckets' gradients, group i at lr · `lr_factors[i]`. The parameters are up
  /// to date on every rank afterwards. Counts as an update until skipped() says that it was none.
  void step(const std::vector<double>& lr_factors, const GradientUse& use, Collectives& world);
  /// Of the gradients times a number that the host knows.
  void step(const std::vector<double>& lr_factors, double gradient_scale, Collectives& world);
  /// The last step() found 0 in `apply`. Before the next one.
  void skipped() { --steps_; }

  int64_t steps() const { return steps_; }
  const std::vector<GroupOptions>& groups() const { return groups_; }
  /// State by name: "NAME.exp_avg" and "NAME.exp_avg_sq" (adamw), "NAME.momentum" (muon).
  std::vector<OwnedTensor> state() const;
  /// Takes this rank's parts of whole tensors; CheckpointError naming what is missing, left over or
  /// misshapen.
  void load_state(const std::vector<NamedTensor>& state, int64_t steps);
  /// fp32 numbers of state that this rank holds.
  int64_t held() const;

 private:
  void step_adamw(const GroupOptions& options, size_t bucket, double lr, const GradientUse& use);
  void step_muon(const GroupOptions& options, size_t bucket, double lr, const GradientUse& use);

  FlatBuffer* buffer_;
  std::vector<GroupOptions> groups_;
  std::vector<at::Tensor> first_, second_;  // by bucket: exp_avg or momentum; exp_avg_sq or nothing
  bool one_by_one_;
  int64_t steps_ = 0;
};

}  // namespace euromodal
