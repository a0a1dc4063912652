// batch.h — packed samples as the model takes them.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"
#include "backbone/nn/linear.h"
#include "encoders/preprocess/preprocess.h"
#include "multimodal/stored_features.h"
#include "multimodal/token_plan.h"

namespace euromodal {

/// One sample, tokenised and preprocessed (made by decode workers). Classification and CTC use
/// `inputs` and `target` only.
struct Example {
  std::string id;
  int64_t index = -1;  // global index in the data set
  TokenPlan plan;
  TokenPlan teacher;  // distillation: the same record with text in place of its media; may be empty
  std::vector<Modality> kinds;           // of `inputs`, in order
  std::vector<EncoderInput> inputs;      // media items in order of the record
  std::vector<StoredFeatures> features;  // one per input, or none at all: rows that were computed
                                         // before; where they are defined, the input is not used
  std::vector<std::string>
      media_keys;  // one per input: names the bytes (for the feature cache); empty when augmented
  std::vector<int64_t> target;  // classification: {class}; CTC: label ids
  /// In training: what dropout draws by, another one each time the sample comes. Without: no
  /// dropout.
  std::optional<uint64_t> dropout_key;
};

struct Batch {
  at::Tensor ids_T;               // [T] i64
  at::Tensor labels_T;            // [T] i64, -100 = no target
  Segments rows;                  // samples over the T rows
  std::vector<Example> examples;  // S; media and spans stay here, host side
};

/// What the LoRA of the backbone drops by: one key a sample; none when a sample has none.
DropoutKeys sample_dropout_keys(const Batch& batch);

/// What the encoder's LoRA drops by in item `item` of a sample: appends a key for each of its
/// pictures, frames or windows of sound; nothing without a key of the sample, or for stored
/// features.
void add_dropout_keys(const Example& example, size_t item, DropoutKeys& out);

/// Packs whole samples one after the other.
Batch collate(std::vector<Example> examples, bool per_sample);

}  // namespace euromodal
