// build_shards.cpp — from a JSONL file with media beside it to tar shards. All records are looked
// at before the first byte is written, so that a bad one costs no work; the folder appears whole.
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
  Progress progress("reading " + data.name(), data.size(), "records");
  for (int64_t i = 0; i < data.size(); ++i) {
    progress.update(i + 1);
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
      add_sample(*shard, data->get(i), fmt::format("{:09}", i));
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
