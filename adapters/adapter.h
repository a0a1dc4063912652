// adapter.h — what every adapter is: feature rows in, rows of the backbone's width out. It sees
// only features and that width, never the encoder. L feature rows, E their width, M media tokens, D
// backbone width.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"
#include "backbone/nn/row_layout.h"
#include "backbone/weights/weights.h"
#include "core/config.h"

namespace euromodal {

struct AdapterInput {
  at::Tensor rows_LE;            // [L, E]
  std::vector<RowLayout> items;  // their rows() add up to L
  Segments samples;  // over the items (not rows): which items belong to one sample; per_sample as
                     // in kernels/segments.h
};

class Adapter {
 public:
  virtual ~Adapter() = default;
  /// EXACT number of tokens of one item, from its layout alone. DataError when the layout does not
  /// fit (e.g. a grid that does not pool evenly).
  virtual int64_t num_tokens(const RowLayout& layout) const = 0;
  /// -> [M, D], items one after the other.
  virtual at::Tensor forward(const AdapterInput& input) const = 0;
  virtual const std::vector<NamedTensor>& parameters() const = 0;
};

struct AdapterShape {
  int64_t feature_width = 0;
  int64_t backbone_width = 0;
  double embedding_rms = 1.0;
};  // E, D, RMS of the backbone's embedding table

/// `config`: map with `type` (mlp, stack_mlp, pool, ...) and that type's keys (strict). Takes its
/// parameters below `weights`.
std::unique_ptr<Adapter> make_adapter(const Config& config, const AdapterShape& shape,
                                      const WeightScope& weights);

}  // namespace euromodal
