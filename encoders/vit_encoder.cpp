// vit_encoder.cpp — the common part of the image towers.
#include "encoders/vit_encoder.h"

#include <cmath>

#include <ATen/ATen.h>

#include "backbone/kernels/ops.h"
#include "backbone/kernels/to_device.h"
#include "encoders/feature_select.h"
#include "encoders/write_folder.h"

namespace euromodal {
namespace {

// A tower saved alone names all its sizes. In a whole model the nested vision_config leaves out
// what equals transformers' defaults (google/siglip-base-patch16-224 has model_type and nothing
// else).
VitConfig vit_config(const JsonView& json, const VitFamily& family, bool nested) {
  const auto size = [&](const char* key, int64_t standard) {
    return nested && !json.has(key) ? standard : json.positive(key);
  };
  VitConfig c{};
  c.width = size("hidden_size", 768);
  c.layers = size("num_hidden_layers", 12);
  c.heads = size("num_attention_heads", 12);
  c.ffn = size("intermediate_size", 3072);
  c.image_size = size("image_size", 224);
  c.patch = size("patch_size", family.patch);
  c.eps = json.f64("layer_norm_eps", family.eps);
  c.activation =
      parse_activation(json.str("hidden_act", family.activation), json.what() + ": hidden_act");
  check<ConfigError>(json.i64("num_channels", 3) == 3, "{}: num_channels: only 3 is possible",
                     json.what());
  check<ConfigError>(c.width % c.heads == 0,
                     "{}: hidden_size {} is no multiple of num_attention_heads {}", json.what(),
                     c.width, c.heads);
  check<ConfigError>(c.patch <= c.image_size && c.image_size <= 16384,
                     "{}: image_size {} with patch_size {}: expected at least one patch and at "
                     "most 16384 pixels",
                     json.what(), c.image_size, c.patch);
  check<ConfigError>(c.eps > 0.0, "{}: layer_norm_eps: got {}, expected a positive number",
                     json.what(), c.eps);
  return c;
}

std::string vit_prefix(const Weights& weights) {
  if (weights.random()) return "vision_model.";
  for (const char* prefix : {"vision_model.", ""})
    if (weights.has(std::string(prefix) + "embeddings.patch_embedding.weight")) return prefix;
  return "vision_model.";  // taking the first tensor names what is missing
}

}  // namespace

VitEncoder::VitEncoder(const EncoderFiles& files, const VitFamily& family,
                       const ImageTransform& defaults)
    : family_(family), files_(files) {
  const std::string where = files.what + "/config.json";
  const JsonView whole(files_.config, where);
  const bool nested = whole.has("vision_config");
  tower_json_ = nested ? whole.object("vision_config").raw() : files_.config;
  config_ =
      vit_config(JsonView(tower_json_, nested ? where + ": vision_config" : where), family, nested);
  const std::string processor = files.what + "/preprocessor_config.json";
  transform_ = ImageTransform::from_json(JsonView(files_.preprocessor, processor), defaults);
  const auto [height, width] = transform_.fixed_size();
  check<ConfigError>(height == 0 || (height == config_.image_size && width == config_.image_size),
                     "{}: pictures of {}x{}, but image_size of config.json is {}", processor,
                     height, width, config_.image_size);
}

RawMedia VitEncoder::read(const MediaSource& source) const {
  return media_reader().read_image(source);
}

EncoderInput VitEncoder::preprocess(const RawMedia& media) const {
  return preprocess_on(media, at::kCPU);
}

EncoderInput VitEncoder::preprocess_on(const RawMedia& media, at::Device device) const {
  const Image* image = std::get_if<Image>(&media);
  check<DataError>(image != nullptr, "a {} encoder takes pictures", family_.name);
  EncoderInput input{transform_.apply(*image, device), 0};
  images(input);
  return input;
}

int64_t VitEncoder::images(const EncoderInput& input) const {
  check<DataError>(
      input.x.dim() == 4 && input.x.size(0) > 0 && input.x.size(1) == 3 &&
          input.x.size(2) == config_.image_size && input.x.size(3) == config_.image_size,
      "picture of {}x{} pixels after its transform, the encoder takes {}x{}",
      input.x.dim() == 4 ? input.x.size(2) : 0, input.x.dim() == 4 ? input.x.size(3) : 0,
      config_.image_size, config_.image_size);
  return input.x.size(0);
}

RowLayout VitEncoder::layout(const EncoderInput& input, const FeatureSelect& select) const {
  select_blocks(select, config_.layers);
  const int64_t frames = images(input);
  if (select.kind == FeatureSelect::Kind::kPooled) {
    if (!has_pooled()) refuse_pooled(fmt::format("this {} encoder", family_.name));
    return {.frames = frames, .height = 1, .width = 1};
  }
  // A class token stands before the patches of its picture; of clips there are only patches.
  return {.frames = frames,
          .height = config_.grid(),
          .width = config_.grid(),
          .prefix = frames == 1 ? family_.prefix : 0};
}

WeightScope VitEncoder::take_tower(Weights& weights) {
  const WeightScope tower = weights.scope(vit_prefix(weights));
  const WeightScope embeddings = tower.scope("embeddings.");
  const int64_t d = config_.width, p = config_.patch;
  const double std = 1.0 / std::sqrt(static_cast<double>(3 * p * p));
  patch_OCHW_ = embeddings.take("patch_embedding.weight", {d, 3, p, p}, Init::normal(std));
  if (family_.patch_bias) patch_bias_ = embeddings.take("patch_embedding.bias", {d}, Init::zeros());
  positions_PD_ = embeddings.take("position_embedding.weight", {patches() + family_.prefix, d},
                                  Init::normal(0.02));
  const BlockShape shape{d, config_.heads, config_.ffn, config_.eps, config_.activation};
  for (int64_t i = 0; i < config_.layers; ++i) {
    blocks_.emplace_back(tower.scope(fmt::format("encoder.layers.{}.", i)), shape, kVitBlockNames);
    for (const Linear& layer : blocks_.back().linears()) linears_.push_back(layer);
  }
  return tower;
}

void VitEncoder::finish(Weights& weights) {
  if (!weights.random()) {
    for (const char* other : {"text_model.*", "logit_scale", "logit_bias",
                              "visual_projection.weight", "text_projection.weight"})
      weights.ignore(other);
    weights.ignore("*embeddings.position_ids");  // a buffer of old files, 0 .. P-1
    weights.finish();
  }
  parameters_ = weights.taken();
}

Segments VitEncoder::image_segments(int64_t count, int64_t length, bool per_item) {
  return Segments::from_lengths(std::vector<int64_t>(static_cast<size_t>(count), length), per_item);
}

at::Tensor VitEncoder::repeat_rows(const at::Tensor& table_PD, int64_t count, bool per_item) {
  const int64_t rows = table_PD.size(0);
  const at::Tensor ids_T =
      at::arange(rows, table_PD.options().dtype(at::kLong).requires_grad(false)).repeat({count});
  return embedding(table_PD, ids_T, image_segments(count, rows, per_item));
}

at::Tensor VitEncoder::patch_rows(const std::vector<EncoderInput>& inputs, bool per_item) const {
  std::vector<at::Tensor> parts;
  for (const EncoderInput& input : inputs) parts.push_back(input.x);
  check<DataError>(!parts.empty(), "no picture to encode");
  const at::Tensor x_NCHW =
      to_device(at::cat(parts), patch_OCHW_.device()).to(patch_OCHW_.scalar_type());
  const int64_t n = x_NCHW.size(0), p = config_.patch, grid = config_.grid(), used = grid * p;
  // Stride = kernel size: a convolution is one matrix product over patches. Pixels beyond the last
  // whole patch are not used.
  const at::Tensor patches_TC = x_NCHW.narrow(2, 0, used)
                                    .narrow(3, 0, used)
                                    .reshape({n, 3, grid, p, grid, p})
                                    .permute({0, 2, 4, 1, 3, 5})
                                    .reshape({n * grid * grid, 3 * p * p});
  return linear(patches_TC, patch_OCHW_.reshape({config_.width, -1}), patch_bias_,
                image_segments(n, grid * grid, per_item));
}

std::string VitEncoder::settings() const {
  return fmt::format("{} heads={} eps={} activation={} preprocessor={}", family_.name,
                     config_.heads, config_.eps, static_cast<int>(config_.activation),
                     files_.preprocessor.dump());
}

void VitEncoder::save(const std::filesystem::path& dir) const {
  Json config = tower_json_;
  config["model_type"] = family_.tower_type;
  config["architectures"] = Json::array({family_.tower_class});
  write_encoder_folder(dir, std::move(config), files_.preprocessor, parameters_);
}

}  // namespace euromodal
