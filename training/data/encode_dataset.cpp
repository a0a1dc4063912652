// encode_dataset.cpp — see encode_dataset.h.
#include "training/data/encode_dataset.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/weights/safetensors_bytes.h"
#include "core/files.h"
#include "core/json.h"
#include "core/log.h"
#include "core/progress.h"
#include "training/data/datasets.h"
#include "training/data/read_media.h"
#include "training/data/shard_writer.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

// What a conversion is, so that a later start knows that the shards it finds are its own.
Json encode_description(const Dataset& data, const std::vector<FeatureSource>& sources,
                        const EncodeOptions& options) {
  Json encoders = Json::array();
  for (const FeatureSource& source : sources) {
    encoders.push_back({{"kind", modality_name(source.encoder->modality())},
                        {"encoder", source.identity.encoder},
                        {"features", source.identity.features}});
  }
  return {{"data", data.fingerprint()},
          {"encoders", std::move(encoders)},
          {"name", options.name},
          {"shard_samples", options.shard_samples},
          {"store", c10::toString(options.store)}};
}

void encode_begin(const Json& description, const fs::path& output) {
  const fs::path file = output / "encode.json";
  std::error_code error;
  if (!fs::exists(output, error) || fs::is_empty(output, error)) {
    fs::create_directories(output);
    write_text_atomic(file, description.dump(2) + "\n");
    return;
  }
  check<UsageError>(fs::exists(file, error),
                    "{}: exists and is no folder of features; take another one", output.string());
  const Json found = read_json(file);
  check<UsageError>(found == description,
                    "{}: holds features of other data, encoders or options ({}), this is {}; take "
                    "another folder",
                    output.string(), found.dump(), description.dump());
}

// The sample with features in place of media; `bytes` keeps them alive.
Sample encode_sample(Sample sample, const std::vector<FeatureSource>& sources, at::ScalarType store,
                     std::vector<std::string>& bytes) {
  const std::vector<MediaRef*> refs = media_refs(sample.record);
  bytes.resize(refs.size());
  for (size_t i = 0; i < refs.size(); ++i) {
    MediaRef& ref = *refs[i];
    const auto source = std::find_if(
        sources.begin(), sources.end(),
        [&](const FeatureSource& candidate) { return candidate.encoder->modality() == ref.kind; });
    if (source == sources.end() || !ref.tensor.empty()) continue;
    const Encoder& encoder = *source->encoder;
    const EncoderInput input = encoder.preprocess(read_media(encoder, ref, sample.media[i]));
    const Features rows = encoder.forward({input}, FeatureSelect::parse(source->identity.features),
                                          /*per_item=*/true);
    const FeatureFile file =
        feature_file({{rows.rows_LE.to(store), rows.items.front()}}, source->identity);
    bytes[i] = safetensors_bytes(sample.media[i].name, file.tensors, file.options);
    ref = {.kind = ref.kind,
           .uri = fmt::format("{}.safetensors", i),
           .text = ref.text,
           .tensor = file.tensors.front().name};
    sample.media[i] = {.name = ref.uri, .bytes = bytes[i], .in_memory = true};
  }
  return sample;
}

}  // namespace

EncodeResult encode_dataset(const Dataset& data, const std::vector<FeatureSource>& sources,
                            const EncodeOptions& options) {
  check<UsageError>(!sources.empty(), "no encoder: nothing to encode");
  check<UsageError>(options.shard_samples > 0, "shard of {} samples: expected 1 or more",
                    options.shard_samples);
  check<UsageError>(!options.name.empty() && options.name.find('/') == std::string::npos,
                    "shard name '{}': expected a file name without folders", options.name);
  encode_begin(encode_description(data, sources, options), options.output);

  const c10::NoGradGuard no_graph;
  EncodeResult result;
  Progress progress("encoding " + data.name(), data.size(), "samples");
  for (int64_t begin = 0; begin < data.size(); begin += options.shard_samples) {
    const int64_t end = std::min(begin + options.shard_samples, data.size());
    const fs::path file =
        options.output / fmt::format("{}-{:06}.tar", options.name, begin / options.shard_samples);
    if (fs::exists(file)) {
      ++result.kept_shards;
      progress.update(end);
      continue;
    }
    AtomicFile whole(file);
    ShardWriter shard(whole.temporary());
    for (int64_t i = begin; i < end; ++i) {
      std::vector<std::string> bytes;
      Sample sample;
      try {
        sample = encode_sample(data.get(i), sources, options.store, bytes);
      } catch (const DataError& e) {
        ++result.bad_samples;
        check<DataError>(result.bad_samples <= options.max_bad_samples,
                         "sample {}: bad sample {}, more than max_bad_samples = {}: {}", i,
                         result.bad_samples, options.max_bad_samples, e.what());
        log_warn("bad sample left out: {}", e.what());
        continue;
      }
      add_sample(shard, std::move(sample), fmt::format("{:09}", i));
      progress.update(i + 1);
    }
    shard.close();
    whole.commit();
  }
  progress.finish();
  const BuildResult index = index_shards(options.output);
  result.samples = index.samples;
  result.shards = index.shards;
  result.bad_samples = data.size() - index.samples;  // those of earlier starts as well
  return result;
}

}  // namespace euromodal
