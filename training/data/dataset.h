// dataset.h — samples in tar shards (WebDataset convention) behind one index, or in a JSONL file
// with media beside it; random access by global index.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/config.h"
#include "multimodal/record.h"

namespace euromodal {

/// A record with the bytes of its media (views into mapped shards) in order of its media parts.
struct Sample {
  int64_t index = -1;
  std::string where;  // "shard-000000.tar:000000012" or "train.jsonl:13", for messages
  Record record;
  std::vector<MediaSource> media;
};

class Dataset {
 public:
  /// `path`: an index file (`index.json` of `data build` / `data index`), a folder that holds one,
  /// or a .jsonl file. DataError naming the shard: missing, truncated, changed since it was
  /// indexed.
  static std::unique_ptr<Dataset> open(const std::filesystem::path& path);
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  /// Thread safe. DataError names the sample; a shard that was changed since it was indexed is
  /// noticed by the hash of the sample's bytes.
  virtual Sample get(int64_t index) const = 0;
  /// Rough number of token rows of a sample, from sizes alone, without decoding: what the loader
  /// balances parts with. Thread safe, never throws for a bad sample (1 then), the same on every
  /// rank.
  virtual double cost(int64_t index) const = 0;
  virtual std::string name() const = 0;
  /// Text that changes when the data changes (for the run's record).
  virtual std::string fingerprint() const = 0;
};

/// Several data sets as one, each repeated `repeat` times per epoch. Of a fractional repeat the
/// fraction is a fixed subset, spread over the data set, the same in every epoch (take a whole
/// number where every sample must be seen). Sample::index is the index in the mixture.
struct DatasetPart {
  std::unique_ptr<Dataset> data;
  double repeat = 1.0;
};
std::unique_ptr<Dataset> mix(std::vector<DatasetPart> parts);
/// Repeats that give each data set its share of the samples of an epoch: of 8 to 2, four samples in
/// five. An epoch is as long as it takes until every sample of every data set was seen once; the
/// others are repeated until their share is full. sizes and weights above 0.
std::vector<double> repeats_of_weights(const std::vector<int64_t>& sizes,
                                       const std::vector<double>& weights);
/// From `data: [{path: ..., repeat: 1}, ...]` or, for all of them, `weight:` in place of `repeat`.
std::unique_ptr<Dataset> open_datasets(const Config& config, const std::string& key);

/// Writes shards `NAME-000000.tar` of about `shard_bytes` from a JSONL file (media paths relative
/// to it) and `index.json`; complete or absent; the same input gives the same bytes.
struct BuildOptions {
  std::filesystem::path records;
  std::filesystem::path output;
  std::string name = "shard";
  int64_t shard_bytes = 100'000'000;
};
struct BuildResult {
  int64_t samples = 0, shards = 0, bad_samples = 0;
};
/// DataError naming the records (the first 15) when any is bad; UsageError when `output` exists and
/// is no folder of shards.
BuildResult build_shards(const BuildOptions& options);
/// Makes `index.json` for the tar files of a folder (WebDataset: members that share the name up to
/// the first dot are one sample, `stem.json` is its record). Bad samples are named in the log,
/// counted and left out.
BuildResult index_shards(const std::filesystem::path& dir);
/// Reads every sample and decodes its media; returns the faults, one line each, in order of index.
std::vector<std::string> check_dataset(const Dataset& data);

/// Order of samples: a function of (seed, epoch, index) alone.
class Sampler {
 public:
  /// DataError unless size > 0.
  Sampler(int64_t size, uint64_t seed, bool shuffle);
  /// The sample that stands at position `global` (0, 1, 2, ... over all epochs).
  int64_t at(int64_t global) const;
  int64_t epoch_of(int64_t global) const { return global / size_; }

 private:
  int64_t size_;
  uint64_t seed_;
  bool shuffle_;
};

}  // namespace euromodal
