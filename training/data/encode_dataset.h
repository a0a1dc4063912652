// encode_dataset.h — a data set with its media replaced by their features, so that a frozen encoder
// runs once and not once an epoch.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "multimodal/stored_features.h"
#include "training/data/dataset.h"

namespace euromodal {

/// Encodes media of its modality.
struct FeatureSource {
  const Encoder* encoder = nullptr;
  FeatureIdentity identity;
};

struct EncodeOptions {
  std::filesystem::path output;
  std::string name = "shard";
  int64_t shard_samples = 1000;
  int64_t max_bad_samples = 0;
  at::ScalarType store = at::kFloat;  // of the rows in the files
};

struct EncodeResult {
  int64_t samples = 0, shards = 0, bad_samples = 0;
  int64_t kept_shards = 0;  // of an earlier start
};

/// Writes shards with index.json: the records, `stem.0.safetensors` for every medium that one of
/// `sources` takes (the same rows, bit for bit, as training in deterministic mode computes), all
/// other media as they are. Shard k holds the samples from k · shard_samples on and appears whole;
/// a start with the same data, encoders and options goes on behind the last one. Bad samples are
/// named in the log and left out. UsageError when the folder holds something else, DataError beyond
/// max_bad_samples.
EncodeResult encode_dataset(const Dataset& data, const std::vector<FeatureSource>& sources,
                            const EncodeOptions& options);

}  // namespace euromodal
