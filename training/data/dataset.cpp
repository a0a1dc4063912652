// dataset.cpp — which kind of data set a path is, and the list of data sets of a config.
#include "training/data/dataset.h"

#include "core/rng.h"
#include "training/data/datasets.h"

namespace euromodal {
namespace {

template <typename RecordT, typename RefT>
std::vector<RefT*> dataset_media_refs(RecordT& record) {
  std::vector<RefT*> refs;
  for (auto& message : record.messages) {
    for (auto& part : message.parts) {
      if (part.is_media) refs.push_back(&part.media);
    }
  }
  return refs;
}

}  // namespace

std::vector<const MediaRef*> media_refs(const Record& record) {
  return dataset_media_refs<const Record, const MediaRef>(record);
}
std::vector<MediaRef*> media_refs(Record& record) {
  return dataset_media_refs<Record, MediaRef>(record);
}

std::unique_ptr<Dataset> Dataset::open(const std::filesystem::path& path) {
  const std::string name = path.string();
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    check<DataError>(std::filesystem::exists(path / "index.json", error),
                     "{}: no index.json in this folder; make it: euromodal data index {}", name,
                     name);
    return open_shards(path / "index.json");
  }
  check<DataError>(std::filesystem::exists(path, error), "{}: no such file or folder", name);
  if (path.extension() == ".jsonl") return open_jsonl(path);
  check<DataError>(path.extension() == ".json",
                   "{}: no data set: expected a .jsonl file, an index.json or its folder", name);
  return open_shards(path);
}

std::unique_ptr<Dataset> open_datasets(const Config& config, const std::string& key) {
  std::vector<DatasetPart> parts;
  std::vector<int64_t> sizes;
  std::vector<double> weights;
  for (const Config& entry : config.list(key)) {
    DatasetPart part;
    try {
      part.data = Dataset::open(entry.path("path"));
    } catch (const DataError& e) {
      throw DataError("{} (named by {})", e.what(), entry.where("path"));
    }
    const char* share = entry.has("weight") ? "weight" : "repeat";
    check<ConfigError>(!entry.has("weight") || !entry.has("repeat"),
                       "{}: weight (share of the samples) and repeat exclude each other",
                       entry.where());
    const double value = entry.f64(share, 1.0);
    check<ConfigError>(value > 0.0 && value <= 1e6, "{}: expected a number above 0, got {}",
                       entry.where(share), value);
    if (entry.has("weight")) weights.push_back(value);
    part.repeat = value;
    sizes.push_back(part.data->size());
    parts.push_back(std::move(part));
    check<ConfigError>(weights.empty() || weights.size() == parts.size(),
                       "{}: either every data set has a weight or none", entry.where());
  }
  if (!weights.empty()) {
    const std::vector<double> repeats = repeats_of_weights(sizes, weights);
    for (size_t i = 0; i < parts.size(); ++i) parts[i].repeat = repeats[i];
  }
  check<ConfigError>(!parts.empty(),
                     "{}: expected a list of {{path: ..., repeat: 1}} or {{path: ..., weight: 1}}",
                     config.where(key));
  return mix(std::move(parts));
}

Sampler::Sampler(int64_t size, uint64_t seed, bool shuffle)
    : size_(size), seed_(seed), shuffle_(shuffle) {
  check<DataError>(size > 0, "sampler: {} samples, expected at least 1", size);
}

int64_t Sampler::at(int64_t global) const {
  const int64_t index = global % size_;
  if (!shuffle_) return index;
  const auto epoch = static_cast<uint64_t>(global / size_);
  return permuted(index, size_, Rng(seed_).fork("epoch", epoch).key());
}

}  // namespace euromodal
