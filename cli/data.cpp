// data.cpp — `euromodal data build | index | check`: shards from a JSONL file, the index of a
// folder of shards, and bad samples of any data set.
#include <cstdio>
#include <string>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "training/data/dataset.h"

namespace euromodal::cli {
namespace {

constexpr const char* kDataUsage =
    "usage: euromodal data build --records FILE.jsonl --output DIR   tar shards and their index\n"
    "       euromodal data index DIR                                 index of a folder of .tar "
    "shards (WebDataset)\n"
    "       euromodal data check PATH                                decodes every sample; exit 1 "
    "when any is bad\n"
    "(euromodal data build --help, ...)\n";

int data_build(int argc, char** argv) {
  BuildOptions build;
  std::string records, output;
  int64_t shard_mb = 100;
  Options options("data build", "writes tar shards and index.json from a JSONL file");
  options.text("--records", &records, "FILE",
               "JSONL, one record a line; media paths relative to the file", /*required=*/true);
  options.text("--output", &output, "DIR",
               "folder for the shards; an older folder of shards is replaced", /*required=*/true);
  options.text("--name", &build.name, "NAME", "shards are called NAME-000000.tar (default: shard)");
  options.i64("--shard-mb", &shard_mb, "size of a shard in megabytes (default: 100)", 1, 1'000'000);
  if (!options.parse(argc, argv)) return 0;
  build.records = records;
  build.output = output;
  build.shard_bytes = shard_mb * 1'000'000;
  const BuildResult result = build_shards(build);
  fmt::print("{}: {} samples in {} shards\n", output, result.samples, result.shards);
  return 0;
}

int data_index(int argc, char** argv) {
  std::string dir;
  Options options("data index", "makes index.json for the .tar files of a folder");
  options.positional("DIR", &dir, "folder of tar shards", /*required=*/true);
  if (!options.parse(argc, argv)) return 0;
  const BuildResult result = index_shards(dir);
  fmt::print("{}: {} samples in {} shards, {} bad samples left out\n", dir, result.samples,
             result.shards, result.bad_samples);
  return 0;
}

int data_check(int argc, char** argv) {
  std::string path;
  Options options("data check",
                  "decodes every sample; one line on stdout for each that is bad, exit 1 then");
  options.positional("PATH", &path, "folder of shards, index.json or .jsonl file",
                     /*required=*/true);
  if (!options.parse(argc, argv)) return 0;
  const auto data = Dataset::open(path);
  const std::vector<std::string> faults = check_dataset(*data);
  for (const std::string& fault : faults) fmt::print("{}\n", fault);
  std::fflush(stdout);
  check<DataError>(faults.empty(), "{}: {} of {} samples are bad, the first: {}", path,
                   faults.size(), data->size(), faults.empty() ? "" : faults.front());
  fmt::print("{}: {} samples, all good\n", path, data->size());
  return 0;
}

}  // namespace

int run_data(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "build") return data_build(argc - 1, argv + 1);
  if (what == "index") return data_index(argc - 1, argv + 1);
  if (what == "check") return data_check(argc - 1, argv + 1);
  if (what == "--help" || what == "-h") {
    std::fputs(kDataUsage, stdout);
    return 0;
  }
  throw UsageError("{}; expected build, index or check",
                   what.empty() ? "nothing to do" : "unknown word '" + what + "'");
}

}  // namespace euromodal::cli
