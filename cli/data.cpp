// data.cpp — `euromodal data build | index | encode | check`: shards from a JSONL file, the index
// of a folder of shards, features in place of media, and bad samples of any data set.
#include <cstdio>
#include <string>

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "multimodal/encoder_folder.h"
#include "multimodal/model.h"
#include "training/data/dataset.h"
#include "training/data/encode_dataset.h"

namespace euromodal::cli {
namespace {

constexpr const char* kDataUsage =
    "usage: euromodal data build --records FILE.jsonl --output DIR   tar shards and their index\n"
    "       euromodal data index DIR                                 index of a folder of .tar "
    "shards (WebDataset)\n"
    "       euromodal data encode --encoder DIR --data PATH --output DIR   features in place of "
    "media\n"
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

int data_encode(int argc, char** argv) {
  EncodeOptions encode;
  int64_t threads = 0;
  std::string model, data, output, features = "last", dtype = "float32", store = "float32";
  std::vector<std::string> encoders;
  Options options("data encode",
                  "runs frozen encoders once: writes shards with features in place of media, for "
                  "training; started again, it goes on where it was stopped");
  options.text("--model", &model, "DIR", "coupled model: its encoders and the features it takes");
  options.many("--encoder", &encoders, "DIR...",
               "or encoder folders, one for each kind of media; other media stay as they are");
  options.text("--data", &data, "PATH", "folder of shards, index.json or .jsonl file",
               /*required=*/true);
  options.text("--output", &output, "DIR", "folder for the shards", /*required=*/true);
  options.text("--features", &features, "WHICH",
               "with --encoder: last, pooled, or a hidden state such as -2 (default last)");
  options.text("--dtype", &dtype, "TYPE",
               "the encoders compute in float32 or bfloat16, as the training that reads the "
               "features (default float32)");
  options.text("--store", &store, "TYPE",
               "rows in the files: float32, bfloat16 or float16 (default float32)");
  options.text("--name", &encode.name, "NAME", "shards are called NAME-000000.tar (default shard)");
  options.i64("--shard-samples", &encode.shard_samples, "samples of a shard (default 1000)", 1,
              1'000'000'000);
  options.i64("--threads", &threads,
              "threads of the encoders (default: all cores); bits are those of a training with as "
              "many run.threads",
              1, 4096);
  options.i64("--max-bad-samples", &encode.max_bad_samples,
              "bad samples that may be left out (default 0)", 0, 1'000'000'000);
  if (!options.parse(argc, argv)) return 0;
  check<UsageError>(model.empty() != encoders.empty(), "expected either --model or --encoder");
  check<UsageError>(model.empty() || !options.given("--features"),
                    "--features goes with --encoder; a model says itself what it takes");
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  encode.output = output;
  encode.store = parse_dtype(store);

  std::unique_ptr<MultimodalModel> whole;
  std::vector<std::unique_ptr<Encoder>> loaded;
  std::vector<FeatureSource> sources;
  if (!model.empty()) {
    whole = MultimodalModel::load(model, parse_dtype(dtype));
    for (const Modality kind : {Modality::kImage, Modality::kAudio, Modality::kVideo}) {
      if (whole->takes(kind))
        sources.push_back({&whole->encoder(kind), whole->feature_identity(kind)});
    }
  }
  for (const std::string& dir : encoders) {
    loaded.push_back(load_encoder_folder(dir, parse_dtype(dtype)));
    for (const FeatureSource& other : sources)
      check<UsageError>(other.encoder->modality() != loaded.back()->modality(),
                        "--encoder {}: a second encoder of {}", dir,
                        modality_name(other.encoder->modality()));
    sources.push_back({loaded.back().get(), {encoder_identity(*loaded.back()), features}});
  }
  const auto samples = Dataset::open(data);
  const EncodeResult result = encode_dataset(*samples, sources, encode);
  fmt::print(
      "{}: {} samples in {} shards ({} of them from an earlier start), {} bad samples left "
      "out\n",
      output, result.samples, result.shards, result.kept_shards, result.bad_samples);
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
  if (what == "encode") return data_encode(argc - 1, argv + 1);
  if (what == "check") return data_check(argc - 1, argv + 1);
  if (what == "--help" || what == "-h") {
    std::fputs(kDataUsage, stdout);
    return 0;
  }
  throw UsageError("{}; expected build, index, encode or check",
                   what.empty() ? "nothing to do" : "unknown word '" + what + "'");
}

}  // namespace euromodal::cli
