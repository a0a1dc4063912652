// projector.h — what the adapters share: an optional LayerNorm on the feature rows, the two-layer
// MLP of LLaVA-1.5 (Liu et al. 2023; HF LlavaMultiModalProjector), and an output brought to the RMS
// of the backbone's embedding table by a learned gain. L feature rows, E their width, R rows that
// go through the MLP, I its input width, D backbone width.
//
//   hidden: 256            # width between the two layers
//   layer_norm: true       # LayerNorm (1e-5) on the feature rows; default false
//   bias: true             # of linear_1 and linear_2; default true
//   output: {rms: true}    # y = gain · h / rms(h); default false
//
// Tensors: layer_norm.{weight,bias} [E], linear_1.{weight [hidden, I], bias}, linear_2.{weight
// [D, hidden], bias}, gain [1].
#pragma once
#include <vector>

#include <ATen/core/Tensor.h>

#include "adapters/adapter.h"

namespace euromodal {

/// Samples over the rows of a tensor to which item i of the input contributes rows_of_item[i] rows.
/// Without per_sample: one segment. Samples without rows are left out.
Segments adapter_segments(const AdapterInput& input, const std::vector<int64_t>& rows_of_item);

/// The rows of all items without their class tokens: [sum of frames x height x width, E].
at::Tensor drop_prefix(const at::Tensor& rows_LE, const std::vector<RowLayout>& items);

/// Checks that the rows fit the items and the width, and brings them to `dtype`.
at::Tensor checked_rows(const AdapterInput& input, int64_t feature_width, at::ScalarType dtype);

/// x_RD · gain_1 [1]; the gain's gradient is summed sample by sample when rows.per_sample.
at::Tensor scale_by_gain(const at::Tensor& x_RD, const at::Tensor& gain_1, const Segments& rows);

class Projector {
 public:
  /// Reads the keys above. `mlp_width`: I.
  Projector(const Config& config, const AdapterShape& shape, int64_t mlp_width,
            const WeightScope& weights);
  /// LayerNorm of the feature rows, where there is one.
  at::Tensor normalise(const at::Tensor& rows_LE, const Segments& rows) const;
  /// x_RI [R, I] -> [R, D]; R = 0 gives no rows and no graph.
  at::Tensor project(const at::Tensor& x_RI, const Segments& rows) const;
  const std::vector<NamedTensor>& parameters() const { return parameters_; }
  at::ScalarType dtype() const { return linear_1_weight_.scalar_type(); }
  int64_t feature_width() const { return feature_width_; }

 private:
  at::Tensor keep(const WeightScope& weights, const std::string& name, at::IntArrayRef shape,
                  Init init);

  int64_t feature_width_;
  std::vector<NamedTensor> parameters_;
  at::Tensor norm_weight_, norm_bias_, linear_1_weight_, linear_1_bias_, linear_2_weight_,
      linear_2_bias_, gain_;
};

}  // namespace euromodal
