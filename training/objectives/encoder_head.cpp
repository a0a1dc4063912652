// encoder_head.cpp — see encoder_head.h.
#include "training/objectives/encoder_head.h"

#include <cmath>
#include <sstream>

#include <ATen/ATen.h>

#include "backbone/kernels/linear/linear.h"
#include "core/files.h"

namespace euromodal {
namespace {

std::unique_ptr<Encoder> head_encoder(const Config& config, uint64_t seed) {
  if (!config.has("random")) return load_encoder(config.path("model"));
  const Config random = config.child("random");
  return random_encoder(read_json(random.path("config")), read_json(random.path("preprocessor")),
                        seed);
}

}  // namespace

EncoderHead::EncoderHead(const Config& config, const ObjectiveOptions& options, int64_t outputs)
    : encoder_(head_encoder(config.child("encoder"), options.seed)) {
  Weights drawn = Weights::random(options.seed, at::kFloat);
  const int64_t E = encoder_->width();
  head_weight_CE_ = drawn.take("head.weight", {outputs, E},
                               Init::normal(1.0 / std::sqrt(static_cast<double>(E))));
  head_bias_C_ = drawn.take("head.bias", {outputs}, Init::zeros());
  for (const NamedTensor& p : encoder_->parameters())
    parameters_.push_back({"encoder." + p.name, p.tensor});
  parameters_.push_back({"head.weight", head_weight_CE_});
  parameters_.push_back({"head.bias", head_bias_C_});
  if (config.has("augment")) {
    const Config augment = config.child("augment");
    if (encoder_->modality() == Modality::kAudio) {
      spec_augment_ = {.time_masks = augment.i64("time_masks", 0),
                       .time_width = augment.i64("time_width", 0),
                       .freq_masks = augment.i64("freq_masks", 0),
                       .freq_width = augment.i64("freq_width", 0)};
    } else {
      image_augment_ = {.brightness = augment.f64("brightness", 0.0),
                        .noise = augment.f64("noise", 0.0)};
    }
  }
}

void EncoderHead::save_model(const std::filesystem::path& dir) const {
  AtomicFolder out(dir);
  encoder_->save(out.path());
  out.commit();
}

Example EncoderHead::prepare_medium(const Sample& sample, const Rng& rng, bool training) const {
  Example out;
  out.id = sample.record.id;
  out.index = sample.index;
  check<DataError>(sample.media.size() == 1,
                   "sample {}: holds {} media; this objective takes exactly one {}", out.id,
                   sample.media.size(), modality_name(encoder_->modality()));
  EncoderInput input = encoder_->preprocess(encoder_->read(sample.media.front()));
  if (training) {
    input = encoder_->modality() == Modality::kAudio
                ? spec_augment(input, spec_augment_, rng.fork("spec_augment"))
                : image_augment(input, image_augment_, rng.fork("image_augment"));
  }
  out.kinds.push_back(encoder_->modality());
  out.inputs.push_back(std::move(input));
  return out;
}

EncoderHead::Rows EncoderHead::encode(const Batch& batch) const {
  std::vector<EncoderInput> inputs;
  for (const Example& example : batch.examples) inputs.push_back(example.inputs.front());
  const Features features =
      encoder_->forward(inputs, FeatureSelect{}, /*per_item=*/batch.rows.per_sample);
  std::vector<int64_t> lengths;
  for (const RowLayout& item : features.items) lengths.push_back(item.rows());
  return {features.rows_LE, Segments::from_lengths(lengths, batch.rows.per_sample)};
}

at::Tensor EncoderHead::head(const at::Tensor& rows_LE, const Segments& rows) const {
  return linear(rows_LE, head_weight_CE_, head_bias_C_, rows);
}

std::string EncoderHead::answer(const Record& record) {
  for (auto message = record.messages.rbegin(); message != record.messages.rend(); ++message) {
    if (message->role != "assistant") continue;
    std::string text;
    for (const Part& part : message->parts) text += part.is_media ? "" : part.text;
    return text;
  }
  throw DataError("sample {}: has no assistant turn to learn from", record.id);
}

std::vector<std::string> read_lines(const std::filesystem::path& file) {
  std::istringstream in(read_text(file));
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) out.push_back(line);
  while (!out.empty() && out.back().empty()) out.pop_back();
  check<ConfigError>(!out.empty(), "{}: is empty, expected one entry a line", file.string());
  return out;
}

}  // namespace euromodal
