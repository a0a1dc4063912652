// shard_dataset.cpp — samples out of mapped tar shards, found through index.json; each is compared
// with the hash it had when it was indexed.
#include <mutex>
#include <optional>

#include "core/files.h"
#include "training/data/datasets.h"
#include "training/data/shard_index.h"

namespace euromodal {
namespace {

class ShardDataset final : public Dataset {
 public:
  explicit ShardDataset(const std::filesystem::path& index)
      : dir_(index.parent_path()), index_(read_shard_index(index)), maps_(index_.shards.size()) {
    check<DataError>(!index_.samples.empty(), "{}: no samples", index.string());
    for (const ShardEntry& shard : index_.shards) check_size(shard);
  }

  int64_t size() const override { return static_cast<int64_t>(index_.samples.size()); }
  std::string name() const override { return dir_.string(); }
  double cost(int64_t index) const override {
    return static_cast<double>(index_.samples[index].cost);
  }
  std::string fingerprint() const override {
    std::string hashes;
    for (const ShardEntry& shard : index_.shards) hashes += shard.hash;
    return hash_hex(hashes);
  }

  Sample get(int64_t index) const override {
    check<DataError>(index >= 0 && index < size(), "{}: sample {} of {}", name(), index, size());
    const SampleEntry& entry = index_.samples[index];
    const ShardEntry& shard = index_.shards[entry.shard];
    const std::string_view bytes = map(entry.shard);
    Sample sample;
    sample.index = index;
    sample.where = shard.file + ":" + entry.stem;
    check<DataError>(sample_hash(entry, bytes) == entry.hash,
                     "{}: sample {} was changed since the shard was indexed; make the index anew: "
                     "euromodal data index {}",
                     (dir_ / shard.file).string(), entry.stem, dir_.string());
    const std::string where = (dir_ / sample.where).string();
    sample.record = parse_sample_record(member_bytes(entry.record, bytes), where);
    for (const MediaRef* ref : media_refs(sample.record)) {
      const MemberSpan* member = find(entry, ref->uri);
      check<DataError>(member != nullptr, "{}: {} '{}' is not in the shard", where,
                       modality_name(ref->kind), ref->uri);
      sample.media.push_back({(dir_ / shard.file).string() + ":" + entry.stem + member->suffix,
                              member_bytes(*member, bytes), /*in_memory=*/true});
    }
    return sample;
  }

 private:
  // A uri is a member's name, or that name without the folder it stands in.
  static const MemberSpan* find(const SampleEntry& entry, const std::string& uri) {
    const std::string base = entry.stem.substr(entry.stem.find_last_of('/') + 1);
    for (const MemberSpan& member : entry.media) {
      if (uri == entry.stem + member.suffix || uri == base + member.suffix) return &member;
    }
    return nullptr;
  }

  void check_size(const ShardEntry& shard) const {
    std::error_code error;
    const auto path = dir_ / shard.file;
    const auto bytes = std::filesystem::file_size(path, error);
    check<DataError>(!error, "{}: missing shard ({})", path.string(), error.message());
    check<DataError>(bytes == static_cast<uint64_t>(shard.bytes),
                     "{}: {} shard: {} bytes, expected {} (index.json)", path.string(),
                     bytes < static_cast<uint64_t>(shard.bytes) ? "truncated" : "changed", bytes,
                     shard.bytes);
  }

  std::string_view map(int64_t shard) const {
    const std::lock_guard lock(mutex_);
    if (!maps_[shard]) {
      check_size(index_.shards[shard]);
      try {
        maps_[shard].emplace(dir_ / index_.shards[shard].file);
      } catch (const Error& e) {
        throw DataError("{}", e.what());
      }
    }
    return maps_[shard]->text();
  }

  std::filesystem::path dir_;
  ShardIndex index_;
  mutable std::mutex mutex_;
  mutable std::vector<std::optional<MappedFile>> maps_;
};

}  // namespace

std::unique_ptr<Dataset> open_shards(const std::filesystem::path& index) {
  return std::make_unique<ShardDataset>(index);
}

}  // namespace euromodal
