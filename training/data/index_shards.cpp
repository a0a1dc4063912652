// index_shards.cpp — makes index.json by reading the tar files of a folder through once.
#include <algorithm>
#include <map>

#include "core/files.h"
#include "core/log.h"
#include "core/progress.h"
#include "training/data/datasets.h"
#include "training/data/shard_index.h"
#include "training/data/tar_scan.h"

namespace euromodal {
namespace {

// WebDataset: the stem ends at the first dot of the file name (dots of folders do not count).
size_t index_stem_length(const std::string& name) {
  const size_t base = name.find_last_of('/') == std::string::npos ? 0 : name.find_last_of('/') + 1;
  return std::min(name.find('.', base), name.size());
}

// The members of a tar as samples, in order of the first member of each.
std::vector<SampleEntry> index_group(const std::vector<TarMember>& members,
                                     const std::string& file) {
  std::vector<SampleEntry> samples;
  std::map<std::string, size_t> at;
  for (const TarMember& member : members) {
    const size_t length = index_stem_length(member.name);
    const std::string stem = member.name.substr(0, length), suffix = member.name.substr(length);
    const auto [found, is_new] = at.try_emplace(stem, samples.size());
    if (is_new) samples.push_back({0, stem, 1, "", {}, {}});
    SampleEntry& sample = samples[found->second];
    const auto same = [&](const MemberSpan& m) { return m.suffix == suffix; };
    check<DataError>(
        !same(sample.record) && std::none_of(sample.media.begin(), sample.media.end(), same),
        "{}: member '{}' twice", file, member.name);
    const MemberSpan span{suffix, member.offset, member.bytes};
    if (suffix == ".json") {
      sample.record = span;
    } else {
      sample.media.push_back(span);
    }
  }
  return samples;
}

// Fills in cost and hash; DataError when the sample is bad.
void index_complete(SampleEntry& sample, std::string_view bytes, const std::string& where) {
  check<DataError>(!sample.record.suffix.empty(), "{}: no record {}.json", where, sample.stem);
  const Record record = parse_sample_record(member_bytes(sample.record, bytes), where);
  const std::string base = sample.stem.substr(sample.stem.find_last_of('/') + 1);
  std::vector<int64_t> sizes;
  for (const MediaRef* ref : media_refs(record)) {
    const auto found =
        std::find_if(sample.media.begin(), sample.media.end(), [&](const MemberSpan& m) {
          return ref->uri == sample.stem + m.suffix || ref->uri == base + m.suffix;
        });
    check<DataError>(found != sample.media.end(), "{}: {} '{}' is not in the shard", where,
                     modality_name(ref->kind), ref->uri);
    sizes.push_back(found->bytes);
  }
  sample.cost = estimate_rows(record, sizes);
  sample.hash = sample_hash(sample, bytes);
}

}  // namespace

BuildResult index_shards(const std::filesystem::path& dir) {
  check<DataError>(std::filesystem::is_directory(dir), "{}: no such folder", dir.string());
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.is_regular_file() && entry.path().extension() == ".tar")
      files.push_back(entry.path());
  }
  check<DataError>(!files.empty(), "{}: no .tar files in this folder", dir.string());
  std::sort(files.begin(), files.end());

  ShardIndex index;
  BuildResult result;
  Progress progress("indexing " + dir.filename().string(), static_cast<int64_t>(files.size()),
                    "shards");
  for (const auto& file : files) {
    const MappedFile tar(file);
    const std::vector<TarMember> members = scan_tar(tar);
    const auto shard = static_cast<int64_t>(index.shards.size());
    index.shards.push_back(
        {file.filename().string(), static_cast<int64_t>(tar.bytes().size()), 0, ""});
    for (SampleEntry& sample : index_group(members, file.string())) {
      sample.shard = shard;
      try {
        index_complete(sample, tar.text(), file.string() + ":" + sample.stem);
        index.samples.push_back(std::move(sample));
      } catch (const DataError& e) {
        ++result.bad_samples;
        log_warn("bad sample left out: {}", e.what());
      }
    }
    progress.update(shard + 1);
  }
  check<DataError>(!index.samples.empty(), "{}: no good sample in {} shards ({} bad ones)",
                   dir.string(), files.size(), result.bad_samples);
  result.samples = static_cast<int64_t>(index.samples.size());
  result.shards = static_cast<int64_t>(index.shards.size());
  write_shard_index(std::move(index), dir / "index.json");
  return result;
}

}  // namespace euromodal
