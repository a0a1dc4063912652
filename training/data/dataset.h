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
  /// Thread safe. DataError names the sample.
  virtual Sample get(int64_t index) const = 0;
  virtual std::string name() const = 0;
  /// Text that changes when the data changes (for the run's record).
  virtual std::string fingerprint() const = 0;
};

/// Several data sets as one, each repeated `repeat` times (may be fractional) per epoch.
struct DatasetPart {
  std::unique_ptr<Dataset> data;
  double repeat = 1.0;
};
std::unique_ptr<Dataset> mix(std::vector<DatasetPart> parts);
/// From `data: [{path: ..., repeat: 1}, ...]`.
std::unique_ptr<Dataset> open_datasets(const Config& config, const std::string& key);

/// Writes shards `NAME-000000.tar` of about `shard_bytes` from a JSONL file (media paths relative
/// to it) and `index.json`; complete or absent.
struct BuildOptions {
  std::filesystem::path records;
  std::filesystem::path output;
  std::string name = "shard";
  int64_t shard_bytes = 100'000'000;
};
void build_shards(const BuildOptions& options);
/// Makes `index.json` for the tar files of a folder. Bad samples are named in the log and counted.
void index_shards(const std::filesystem::path& dir);
/// Decodes every sample; returns the faults, one line each.
std::vector<std::string> check_dataset(const Dataset& data);

/// Order of samples: a function of (seed, epoch, index) alone.
class Sampler {
 public:
  Sampler(int64_t size, uint64_t seed, bool shuffle)
      : size_(size), seed_(seed), shuffle_(shuffle) {}
  /// The sample that stands at position `global` (0, 1, 2, ... over all epochs).
  int64_t at(int64_t global) const;
  int64_t epoch_of(int64_t global) const { return global / size_; }

 private:
  int64_t size_;
  uint64_t seed_;
  bool shuffle_;
};

}  // namespace euromodal
