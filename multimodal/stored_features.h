// stored_features.h — feature rows of media, computed before training by `euromodal encode` or
// `data encode`: a safetensors file with one tensor [L, E] a medium, and metadata that say whose
// they are.
//
//   {"kind": "image", "features": "stem.0.safetensors#features.0"}          how a record names them
//   metadata: encoder = identity of the encoder, features = "last" | "-2" | ...,
//             layout.features.0 = "frames height width prefix"
#pragma once
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/nn/row_layout.h"
#include "backbone/weights/safetensors.h"
#include "encoders/encoder.h"

namespace euromodal {

/// What makes features: which encoder, and which of its layers.
struct FeatureIdentity {
  std::string encoder;   // encoder_identity()
  std::string features;  // FeatureSelect's word
};

/// Rows of one medium.
struct StoredFeatures {
  at::Tensor rows_LE;  // [L, E] as stored (f32, bf16 or f16); undefined: none
  RowLayout layout;
};

/// The tensors `features.0`, `features.1`, ... of `items`, and their metadata, as
/// save_safetensors() takes them.
struct FeatureFile {
  std::vector<NamedTensor> tensors;
  SafetensorsOptions options;
};
FeatureFile feature_file(const std::vector<StoredFeatures>& items, const FeatureIdentity& identity);

/// `tensor` of the file (or member of a shard) `source`. DataError naming the source: no such file
/// or tensor, no metadata of ours, rows that do not fit the layout, or features of another encoder
/// or layer than `want`. Without `want` any encoder will do. Thread safe.
StoredFeatures read_features(const MediaSource& source, const std::string& tensor,
                             const FeatureIdentity* want);

}  // namespace euromodal
