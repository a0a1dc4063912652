// model.cpp — a MultimodalModel from its YAML or its folder. See model.h for the YAML.
//
// A folder that save() writes:
//   config.json, generation_config.json, model.safetensors, tokenizer files   the text model
//   multimodal.yaml                  format, and per kind: placeholder, its id, encoder, adapter
//   adapters.safetensors             image.linear_1.weight, audio.linear_1.weight, ...
//   encoder_image/, encoder_audio/   Hugging Face folders
//   lora_backbone/, lora_encoder_image/, ...   PEFT folders of what LoRA was trained, named by
//   `lora`
//                                              of multimodal.yaml; none when merged
#include "multimodal/model.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include "backbone/float8_model.h"
#include "backbone/lora.h"
#include "backbone/peft_folder.h"
#include "core/error.h"
#include "core/files.h"
#include "multimodal/coupled_model.h"
#include "multimodal/encoder_folder.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kFormat = 1;
constexpr const char* kDescription = "multimodal.yaml";
constexpr const char* kAdapters = "adapters.safetensors";

/// Root mean square of all entries, in chunks of rows: the table may be larger than what is free.
double model_embedding_rms(const at::Tensor& table_VD) {
  const c10::NoGradGuard no_graph;
  double sum = 0.0;
  for (int64_t at = 0; at < table_VD.size(0); at += 4096) {
    const at::Tensor rows = table_VD.slice(0, at, at + 4096).to(at::kFloat);
    sum += rows.square().sum(at::kDouble).item<double>();
  }
  const double rms = std::sqrt(sum / static_cast<double>(table_VD.numel()));
  check<CheckpointError>(std::isfinite(rms) && rms > 0,
                         "the backbone's embedding table has root mean square {}", rms);
  return rms;
}

/// The files that make the tokenizer of `dir`, in memory: the folder may be gone, or be the one
/// that is replaced, when the model is saved.
std::map<std::string, std::string> model_tokenizer_files(const fs::path& dir) {
  std::map<std::string, std::string> out;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                           "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"}) {
    if (fs::exists(dir / name)) out[name] = read_text(dir / name);
  }
  const auto config = out.find("tokenizer_config.json");
  const bool has_template =
      out.contains("chat_template.jinja") ||
      (config != out.end() &&
       parse_json(config->second, (dir / config->first).string()).contains("chat_template"));
  // The text model spoke ChatML by its tokens alone; other programs want to be told.
  if (!has_template) out["chat_template.jinja"] = ChatTemplate::chatml_jinja();
  return out;
}

void model_load_tokenizer(const fs::path& dir, ModelParts& parts) {
  parts.context.tokenizer = Tokenizer::load(dir);
  parts.context.chat = ChatTemplate::load(dir);
  parts.tokenizer_files = model_tokenizer_files(dir);
}

void model_load_backbone(const Config& config, std::optional<at::ScalarType> dtype, uint64_t seed,
                         ModelParts& parts) {
  check<ConfigError>(config.has("model") != config.has("random"),
                     "{}: expected either model: DIR or random: {{config, tokenizer}}",
                     config.where());
  if (config.has("model")) {
    const fs::path dir = config.path("model");
    parts.text = load_text_model(dir, dtype);
    model_load_tokenizer(dir, parts);
    parts.text.llama->set_checkpointing(Checkpointing::parse(config));
    configure_lora(config, parts.text.llama->linears(), seed, "backbone");
    return;
  }
  check<ConfigError>(!dtype || *dtype == at::kFloat, "{}: a model from scratch starts in float32",
                     config.where("random"));
  const Config random = config.child("random");
  const fs::path file = random.path("config");
  const Json json = read_json(file);
  parts.text = random_text_model(LlamaConfig::from_json({json, file.string()}), seed);
  model_load_tokenizer(random.path("tokenizer"), parts);
  parts.text.llama->set_checkpointing(Checkpointing::parse(config));
  configure_lora(config, parts.text.llama->linears(), seed, "backbone");
}

/// `weights: float8`, once a LoRA is on.
void model_round_weights(const Config& config, TextModel& text) {
  if (config.has("weights") && config.choice("weights", {"plain", "float8"}) == "float8")
    round_blocks_to_float8(text);
}

/// `base`: what relative model paths stand below; nothing: the working directory.
struct EncoderRequest {
  Modality kind;
  std::optional<fs::path> base;
  at::ScalarType dtype;
  uint64_t seed;
};

void model_load_encoder(const Config& config, const EncoderRequest& request, ModelParts& parts,
                        MediaPart& media) {
  const auto image = parts.media[static_cast<size_t>(Modality::kImage)].has_value()
                         ? &*parts.media[static_cast<size_t>(Modality::kImage)]
                         : nullptr;
  if (config.has("of")) {
    config.choice("of", {"image"});
    check<ConfigError>(request.kind == Modality::kVideo && image,
                       "{}: frames through another encoder need `video` here and an `image` "
                       "section",
                       config.where("of"));
    media.frames = config.i64("frames");
    check<ConfigError>(media.frames > 0 && media.frames <= 4096,
                       "{}: {} is out of range; expected 1 to 4096", config.where("frames"),
                       media.frames);
    media.encoder = make_frames_encoder(image->encoder, media.frames);
  } else if (config.has("random")) {
    const Config random = config.child("random");
    media.encoder = random_encoder(read_json(random.path("config")),
                                   read_json(random.path("preprocessor")), request.seed);
  } else {
    const fs::path dir = request.base ? *request.base / config.str("model") : config.path("model");
    media.encoder = load_encoder_folder(dir, request.dtype);
  }
  if (media.frames == 0) {
    media.encoder->set_checkpointing(Checkpointing::parse(config));
    configure_lora(config, media.encoder->linears(), request.seed,
                   fmt::format("encoder.{}", modality_name(request.kind)));
  }
  media.features = config.str("features", image && media.frames > 0 ? image->features : "last");
  media.select = FeatureSelect::parse(media.features);
  check<ConfigError>(media.encoder->modality() == request.kind, "{}: this encoder takes {}, not {}",
                     config.where(), modality_name(media.encoder->modality()),
                     modality_name(request.kind));
}

/// Where adapter weights come from, and the id that a placeholder gets which is no token.
struct AdapterSource {
  Weights& weights;
  double embedding_rms;
};

void model_load_media(const Config& config, const EncoderRequest& request,
                      const AdapterSource& source, ModelParts& parts) {
  const auto k = static_cast<size_t>(request.kind);
  const Config section = config.child(modality_name(request.kind));
  MediaPart media;
  media.placeholder = section.str("placeholder", parts.context.marker[k]);
  check<ConfigError>(!media.placeholder.empty(), "{}: empty", section.where("placeholder"));
  // Beyond both the tokenizer and the embedding table, one id a kind: no text can hold it.
  int64_t appended = std::max(parts.context.tokenizer->size(), parts.text.config.vocab_size) +
                     static_cast<int64_t>(request.kind);
  if (section.has("placeholder_id")) appended = section.i64("placeholder_id");
  set_placeholder(parts.context, request.kind, media.placeholder, appended);
  check<ConfigError>(!section.has("placeholder_id") || parts.context.placeholder_id[k] == appended,
                     "{}: {} is not the id of '{}' in the tokenizer, which is {}",
                     section.where("placeholder_id"), appended, media.placeholder,
                     parts.context.placeholder_id[k]);
  model_load_encoder(section.child("encoder"), request, parts, media);
  const Config adapter = section.child("adapter");
  media.adapter_yaml = adapter.dump();
  media.adapter =
      make_adapter(adapter,
                   {.feature_width = media.encoder->width(),
                    .backbone_width = parts.text.config.hidden_size,
                    .embedding_rms = source.embedding_rms},
                   source.weights.scope(std::string(modality_name(request.kind)) + "."));
  parts.media[k] = std::move(media);
}

/// "lora_encoder_image".
std::string model_lora_folder(Modality kind) {
  return fmt::format("lora_encoder_{}", modality_name(kind));
}

/// The LoRA folders that are there must be those that the description names.
void model_check_lora(const fs::path& dir, const Config& config,
                      const std::vector<std::string>& named) {
  std::vector<std::string> possible = {kBackboneLora};
  for (const Modality kind : kModalities) possible.push_back(model_lora_folder(kind));
  for (const std::string& name : named) {
    check<CheckpointError>(
        std::count(possible.begin(), possible.end(), name) == 1 && is_peft_folder(dir / name),
        "{}: {} is no LoRA folder of {}", config.where("lora"), name, dir.string());
  }
  for (const std::string& name : possible) {
    check<CheckpointError>(
        !fs::exists(dir / name) || std::count(named.begin(), named.end(), name) == 1,
        "{}: {} is there, but `lora` of {} does not name it", dir.string(), name, kDescription);
  }
}

ModelParts model_load_folder(const fs::path& dir, std::optional<at::ScalarType> dtype) {
  check<CheckpointError>(MultimodalModel::is_folder(dir), "{}: no coupled model: {} is missing",
                         dir.string(), kDescription);
  const Config config = Config::load(dir / kDescription);
  const int64_t format = config.i64("format");
  check<CheckpointError>(format == kFormat, "{}: format {}, this program reads {}",
                         config.where("format"), format, kFormat);
  ModelParts parts;
  parts.text = load_text_model(dir, dtype);
  model_load_tokenizer(dir, parts);
  std::vector<std::string> lora;
  if (config.has("lora")) lora = config.strs("lora");
  model_check_lora(dir, config, lora);

  const SafetensorsFile file(dir / kAdapters);
  std::vector<NamedTensor> tensors;
  for (const TensorInfo& info : file.infos()) tensors.push_back({info.name, file.tensor(info)});
  Weights weights = Weights::from_tensors(std::move(tensors), parts.text.llama->dtype(),
                                          (dir / kAdapters).string());
  const AdapterSource source{weights, /*embedding_rms=*/1.0};  // the gain is in the file
  for (const Modality kind : kModalities) {
    if (config.has(modality_name(kind)))
      model_load_media(config, {kind, dir, dtype.value_or(at::kFloat), /*seed=*/0}, source, parts);
  }
  for (const Modality kind : kModalities) {
    const std::string name = model_lora_folder(kind);
    if (std::count(lora.begin(), lora.end(), name) == 0) continue;
    const auto& media = parts.media[static_cast<size_t>(kind)];
    check<CheckpointError>(media.has_value() && media->frames == 0,
                           "{}: {} is there, but the model has no such encoder",
                           config.where("lora"), name);
    load_peft(dir / name, media->encoder->linears());
  }
  weights.finish();
  config.finish();
  return parts;
}

bool model_has_media(const Config& config) {
  bool any = false;
  for (const Modality kind : kModalities) any |= config.has(modality_name(kind));
  return any;
}

std::string model_indent(const std::string& text, const std::string& space) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (end > at) out += space + text.substr(at, end - at) + "\n";
    at = end + 1;
  }
  return out;
}

}  // namespace

std::unique_ptr<MultimodalModel> MultimodalModel::from_config(const Config& config, uint64_t seed) {
  std::optional<at::ScalarType> dtype;
  if (config.has("dtype")) dtype = parse_dtype(config.str("dtype"));
  const bool merge = config.boolean("merge_lora", false);
  if (config.has("folder")) {
    ModelParts parts = model_load_folder(config.path("folder"), dtype);
    if (config.has("backbone")) {
      const Config backbone = config.child("backbone");
      parts.text.llama->set_checkpointing(Checkpointing::parse(backbone));
      model_round_weights(backbone, parts.text);
    }
    for (const Modality kind : kModalities) {
      const auto& media = parts.media[static_cast<size_t>(kind)];
      if (!config.has(modality_name(kind))) continue;
      const Config section = config.child(modality_name(kind));
      check<ConfigError>(media && media->frames == 0,
                         "{}: the folder has no encoder of its own for {}", section.where(),
                         modality_name(kind));
      media->encoder->set_checkpointing(Checkpointing::parse(section.child("encoder")));
    }
    config.finish();
    parts.merge_lora = merge;
    return std::make_unique<CoupledModel>(std::move(parts));
  }
  ModelParts parts;
  parts.merge_lora = merge;
  model_load_backbone(config.child("backbone"), dtype, seed, parts);
  model_round_weights(config.child("backbone"), parts.text);
  if (model_has_media(config)) {
    const at::ScalarType compute = parts.text.llama->dtype();
    Weights weights = Weights::random(seed, compute);
    const AdapterSource source{weights, model_embedding_rms(parts.text.llama->embedding_VD())};
    for (const Modality kind : kModalities) {
      if (config.has(modality_name(kind)))
        model_load_media(config, {kind, std::nullopt, dtype.value_or(at::kFloat), seed}, source,
                         parts);
    }
  }
  config.finish();
  return std::make_unique<CoupledModel>(std::move(parts));
}

bool MultimodalModel::is_folder(const fs::path& dir) { return fs::exists(dir / kDescription); }

std::unique_ptr<MultimodalModel> MultimodalModel::load(const fs::path& dir,
                                                       std::optional<at::ScalarType> dtype) {
  return std::make_unique<CoupledModel>(model_load_folder(dir, dtype));
}

void MultimodalModel::save(const fs::path& dir) const {
  AtomicFolder folder(dir);
  save_to(folder.path());
  folder.commit();
}

void CoupledModel::save_to(const fs::path& dir) const {
  std::vector<std::string> lora;
  const auto save_part = [&](const std::vector<Linear>& linears, const std::string& folder,
                             PeftTask task, const std::function<void()>& save) {
    std::optional<MergedWeights> merged;
    if (parts_.merge_lora) merged.emplace(linears);
    save();
    if (parts_.merge_lora || !has_lora(linears)) return;
    save_peft(dir / folder, linears, task);
    lora.push_back(folder);
  };
  save_part(parts_.text.llama->linears(), kBackboneLora, PeftTask::kCausalLm,
            [&] { save_text_model(dir, parts_.text.config, plain_parameters(parts_.text)); });
  for (const auto& [name, content] : parts_.tokenizer_files) write_text_atomic(dir / name, content);

  std::string yaml = fmt::format("format: {}\n", kFormat);
  std::vector<NamedTensor> adapters;
  for (const Modality kind : kModalities) {
    const auto& media = parts_.media[index(kind)];
    if (!media) continue;
    const std::string name = modality_name(kind);
    std::string encoder = fmt::format("of: image, frames: {}", media->frames);
    if (media->frames == 0) {
      save_part(media->encoder->linears(), model_lora_folder(kind), PeftTask::kEncoder,
                [&] { media->encoder->save(dir / ("encoder_" + name)); });
      encoder = "model: encoder_" + name;
    }
    yaml +=
        fmt::format("{}:\n  placeholder: {}\n  placeholder_id: {}\n", name,
                    Json(media->placeholder).dump(), parts_.context.placeholder_id[index(kind)]);
    yaml += fmt::format("  encoder: {{{}, features: {}}}\n  adapter:\n{}", encoder, media->features,
                        model_indent(media->adapter_yaml, "    "));
    for (const NamedTensor& p : media->adapter->parameters())
      adapters.push_back({name + "." + p.name, p.tensor.detach()});
  }
  if (adapters.empty()) return;  // a text model: its folder is a plain Hugging Face folder
  if (!lora.empty()) yaml += fmt::format("lora: [{}]\n", fmt::join(lora, ", "));
  save_safetensors(dir / kAdapters, adapters);
  write_text_atomic(dir / kDescription, yaml);
}

}  // namespace euromodal
