// model_flops.h — what a batch costs a coupled model by the formulas of flops.h.
#pragma once
#include <array>
#include <map>

#include "encoders/encoder.h"
#include "multimodal/model.h"
#include "training/flops.h"

namespace euromodal {

/// An encoder's forward (and backward, where it is trained) on one input.
double encoder_flops(const Encoder& encoder, const StackCost& cost, const EncoderInput& input);
/// Its matrices, tables of positions left out.
StackCost encoder_cost(const Encoder& encoder);

class ModelFlops {
 public:
  /// Which parameters are trained must be known.
  explicit ModelFlops(const MultimodalModel& model);
  /// Before the batch goes through the model: items whose features are in `cache` cost nothing.
  /// Gradients of a sample flow through the backbone when something is trained before or in it:
  /// for a sample without media that is the backbone itself.
  double of(const Batch& batch, const FeatureCache* cache) const;

 private:
  struct Media {
    StackCost encoder, adapter;
  };
  const MultimodalModel& model_;
  StackCost body_, head_;
  std::map<Modality, Media> media_;
};

}  // namespace euromodal
