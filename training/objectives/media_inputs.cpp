// media_inputs.cpp — see media_inputs.h.
#include "training/objectives/media_inputs.h"

#include <algorithm>
#include <set>

#include <ATen/ATen.h>

#include "backbone/lora.h"
#include "core/files.h"
#include "core/json.h"
#include "multimodal/encoder_folder.h"
#include "training/data/datasets.h"
#include "training/data/read_media.h"

namespace euromodal {

std::string media_key(const MediaRef& ref, const MediaSource& source) {
  if (!is_cut(ref)) return source.name;
  return fmt::format("{}@{}-{}", source.name, ref.t0_s, ref.t1_s);
}

EncoderInput MediaInputs::get(const Encoder& encoder, const MediaRef& ref,
                              const MediaSource& source) {
  const std::string key = media_key(ref, source);
  if (max_bytes_ > 0) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto found = kept_.find(key); found != kept_.end()) return found->second;
  }
  EncoderInput input = preprocess(encoder, read_media(encoder, ref, source));
  if (max_bytes_ > 0) {
    const auto size = static_cast<int64_t>(input.x.nbytes());
    const std::lock_guard<std::mutex> lock(mutex_);
    if (bytes_ + size <= max_bytes_ && kept_.try_emplace(key, input).second) bytes_ += size;
  }
  return input;
}

std::unique_ptr<Encoder> make_objective_encoder(const Config& config, uint64_t seed) {
  check<ConfigError>(config.has("model") != config.has("random"),
                     "{}: expected either model: DIR or random: {{config: FILE, preprocessor: "
                     "FILE}}",
                     config.where());
  std::unique_ptr<Encoder> out;
  if (config.has("model")) {
    out = load_encoder_folder(config.path("model"), at::kFloat);
  } else {
    const Config random = config.child("random");
    out = random_encoder(read_json(random.path("config")), read_json(random.path("preprocessor")),
                         seed);
  }
  out->set_checkpointing(Checkpointing::parse(config));
  configure_lora(config, out->linears(), seed, "encoder");
  return out;
}

std::vector<NamedTensor> encoder_parameters(const Encoder& encoder) {
  std::vector<NamedTensor> out;
  for (const NamedTensor& p : encoder.parameters()) out.push_back({"encoder." + p.name, p.tensor});
  for (const NamedTensor& p : lora_parameters(encoder.linears()))
    out.push_back({"encoder." + p.name, p.tensor});
  return out;
}

Features encode_batch(const Encoder& encoder, const Batch& batch, bool per_item) {
  std::vector<EncoderInput> inputs;
  DropoutKeys dropout;
  for (const Example& example : batch.examples) {
    inputs.push_back(example.inputs.at(0));
    add_dropout_keys(example, 0, dropout);
  }
  return encoder.forward(inputs, FeatureSelect{}, per_item, dropout);
}

size_t only_media(const Sample& sample, const Encoder& encoder) {
  const std::vector<const MediaRef*> refs = media_refs(sample.record);
  size_t found = refs.size(), count = 0;
  for (size_t i = 0; i < refs.size(); ++i) {
    if (refs[i]->kind != encoder.modality()) continue;
    found = i;
    ++count;
  }
  check<DataError>(count == 1, "expected exactly one {} in the sample, got {}",
                   modality_name(encoder.modality()), count);
  return found;
}

std::vector<std::string> read_labels(const std::filesystem::path& file) {
  const std::string text = read_text(file);
  std::vector<std::string> out;
  std::set<std::string> seen;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    check<DataError>(!line.empty(), "{}:{}: empty line", file.string(), out.size() + 1);
    check<DataError>(seen.insert(line).second, "{}:{}: \"{}\" stands there twice", file.string(),
                     out.size() + 1, line);
    out.push_back(std::move(line));
    at = end + 1;
  }
  check<DataError>(!out.empty(), "{}: no lines", file.string());
  return out;
}

}  // namespace euromodal
