// build_shards.cpp — from a JSONL file with media beside it to tar shards. All records are looked
// at before the first byte is written, so that a bad one costs no work; the folder appears whole.
#include <algorithm>
#include <map>

#include "core/files.h"
#include "core/progress.h"
#include "training/data/datasets.h"
#include "training/data/shard_writer.h"

namespace euromodal {
namespace {

// DataError with the first faults unless every record parses and all of its media exist.
void build_check_records(const Dataset& data) {
  constexpr int64_t kNamed = 15;
  std::string faults;
  int64_t bad = 0;
  for (int64_t i = 0; i < data.size(); ++i) {
    try {
      const Sample sample = data.get(i);
      for (const MediaSource& medium : sample.media) {
        std::error_code error;
        check<DataError>(std::filesystem::file_size(medium.name, error) > 0 && !error,
                         "{}: media file is empty: {}", sample.where, medium.name);
      }
    } catch (const DataError& e) {
      if (++bad <= kNamed) faults += fmt::format("{}{}", faults.empty() ? "" : "\n  ", e.what());
    }
  }
  check<DataError>(bad == 0, "{} of {} records are bad, nothing was written:\n  {}{}", bad,
                   data.size(), faults, bad > kNamed ? "\n  ..." : "");
}

// ".jpg" of "pictures/Apple.JPG"; a name without a usable ending gets ".bin".
std::string build_ending(const std::string& uri) {
  std::string ending = std::filesystem::path(uri).extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool plain = ending.size() > 1 && std::all_of(ending.begin() + 1, ending.end(), [](char c) {
                       return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
                     });
  return plain && ending != ".json" ? ending : ".bin";
}

// Adds one sample as STEM.json, STEM.0.jpg, ...; a file that is named twice is stored once.
void build_add(ShardWriter& shard, Sample sample, const std::string& stem) {
  std::map<std::string, std::string> member_of;
  std::vector<std::pair<std::string, std::string>> members;  // member, file
  const std::vector<MediaRef*> refs = media_refs(sample.record);
  for (size_t i = 0; i < refs.size(); ++i) {
    const auto [at, is_new] = member_of.try_emplace(refs[i]->uri);
    if (is_new) {
      at->second = fmt::format("{}.{}{}", stem, members.size(), build_ending(refs[i]->uri));
      members.emplace_back(at->second, sample.media[i].name);
    }
    refs[i]->uri = at->second;
  }
  shard.add(stem + ".json", to_json(sample.record).dump());
  for (const auto& [member, file] : members) {
    const MappedFile bytes(file);
    shard.add(member, bytes.text());
  }
}

void build_check_target(const std::filesystem::path& output) {
  std::error_code error;
  if (!std::filesystem::exists(output, error)) return;
  const bool ours = std::filesystem::is_directory(output, error) &&
                    (std::filesystem::is_empty(output, error) ||
                     std::filesystem::exists(output / "index.json", error));
  check<UsageError>(ours, "{}: exists and is no folder of shards; it would be replaced",
                    output.string());
}

}  // namespace

BuildResult build_shards(const BuildOptions& options) {
  check<UsageError>(options.shard_bytes > 0, "shard size {}: expected more than 0",
                    options.shard_bytes);
  check<UsageError>(!options.name.empty() && options.name.find('/') == std::string::npos,
                    "shard name '{}': expected a file name without folders", options.name);
  build_check_target(options.output);
  check<DataError>(std::filesystem::is_regular_file(options.records), "{}: no such file",
                   options.records.string());
  const auto data = open_jsonl(options.records);
  build_check_records(*data);

  AtomicFolder folder(options.output);
  {
    Progress progress("building " + options.output.filename().string(), data->size(), "samples");
    std::unique_ptr<ShardWriter> shard;
    int64_t shards = 0;
    for (int64_t i = 0; i < data->size(); ++i) {
      if (!shard)
        shard = std::make_unique<ShardWriter>(folder.path() /
                                              fmt::format("{}-{:06}.tar", options.name, shards++));
      build_add(*shard, data->get(i), fmt::format("{:09}", i));
      if (shard->bytes() >= options.shard_bytes || i + 1 == data->size()) {
        shard->close();
        shard.reset();
      }
      progress.update(i + 1);
    }
  }
  const BuildResult result = index_shards(folder.path());
  check<DataError>(result.bad_samples == 0 && result.samples == data->size(),
                   "{}: {} of {} samples could not be read back from the shards",
                   options.output.string(), data->size() - result.samples, data->size());
  folder.commit();
  return result;
}

}  // namespace euromodal
