// caption.cpp — see caption.h.
#include "inference/caption.h"

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/json.h"

namespace euromodal {
namespace {

/// Messages before the last assistant turn (all of them when there is none).
size_t caption_turns(const Record& record) {
  for (size_t i = record.messages.size(); i > 0; --i) {
    if (record.messages[i - 1].role == "assistant") return i - 1;
  }
  return record.messages.size();
}

/// Decodes and preprocesses one medium into `example`; returns its number of tokens.
int64_t caption_add(const MultimodalModel& model, const CaptionMedium& medium, Example& example) {
  check<DataError>(model.takes(medium.kind), "{}: this model takes no {}", medium.source.name,
                   modality_name(medium.kind));
  EncoderInput input = model.prepare(medium.kind, medium.source);
  int64_t tokens = 0;
  try {
    tokens = model.num_tokens(medium.kind, input);
  } catch (const DataError& e) {
    throw DataError("{}: {}", medium.source.name, e.what());
  }
  example.kinds.push_back(medium.kind);
  example.inputs.push_back(std::move(input));
  example.media_keys.emplace_back();
  return tokens;
}

}  // namespace

void check_captionable(const std::filesystem::path& dir) {
  if (MultimodalModel::is_folder(dir)) return;
  const std::filesystem::path file = dir / "config.json";
  check<ConfigError>(std::filesystem::exists(file), "{}: no model folder: config.json is missing",
                     dir.string());
  const Json json = read_json(file);
  check<ConfigError>(json.is_object(), "{}: expected an object", file.string());
  const std::string type = JsonView(json, file.string()).str("model_type", "");
  if (type == "llama")
    throw ConfigError(
        "{}: model_type llama is a text model (no multimodal.yaml beside it); "
        "caption reads folders that `euromodal train` wrote with media sections",
        file.string());
  throw ConfigError(
      "{}: model_type '{}' is not supported by caption; supported: folders with "
      "multimodal.yaml, as `euromodal train` writes them",
      file.string(), type);
}

Example caption_example(const MultimodalModel& model, const std::vector<CaptionMedium>& media,
                        const std::string& prompt, bool use_template) {
  Example example;
  example.id = "prompt";
  std::vector<Modality> kinds;
  for (const CaptionMedium& medium : media) kinds.push_back(medium.kind);
  // Markers are checked before the media are decoded: one token each will do for that.
  plan_prompt(prompt, kinds, std::vector<int64_t>(kinds.size(), 1), use_template,
              model.plan_context());
  std::vector<int64_t> tokens;
  for (const CaptionMedium& medium : media) tokens.push_back(caption_add(model, medium, example));
  example.plan = plan_prompt(prompt, kinds, tokens, use_template, model.plan_context());
  return example;
}

Example caption_record(const MultimodalModel& model, const Record& record,
                       const std::vector<MediaSource>& media) {
  Example example;
  example.id = record.id;
  std::vector<int64_t> tokens;
  for (size_t i = 0; i < caption_turns(record); ++i) {
    for (const Part& part : record.messages[i].parts) {
      if (!part.is_media) continue;
      check<DataError>(tokens.size() < media.size(), "sample {}: medium {} is missing", record.id,
                       part.media.uri);
      tokens.push_back(caption_add(model, {part.media.kind, media[tokens.size()]}, example));
    }
  }
  example.plan = plan_record_prompt(record, tokens, model.plan_context());
  return example;
}

std::string record_reference(const Record& record) {
  std::string out;
  const size_t at = caption_turns(record);
  if (at == record.messages.size()) return out;
  for (const Part& part : record.messages[at].parts) out += part.text;
  return out;
}

std::string record_prompt(const Record& record) {
  std::string out;
  for (size_t i = 0; i < caption_turns(record); ++i) {
    if (record.messages[i].role != "user") continue;
    if (!out.empty()) out += "\n";
    for (const Part& part : record.messages[i].parts)
      out += part.is_media ? fmt::format("<{}>", modality_name(part.media.kind)) : part.text;
  }
  return out;
}

std::string record_kind(const Record& record) {
  std::string out;
  for (const Modality kind : {Modality::kImage, Modality::kAudio, Modality::kVideo}) {
    bool found = false;
    for (const Message& message : record.messages) {
      for (const Part& part : message.parts) found |= part.is_media && part.media.kind == kind;
    }
    if (found) out += (out.empty() ? "" : "+") + std::string(modality_name(kind));
  }
  return out.empty() ? "text" : out;
}

Generated caption(const MultimodalModel& model, Example example, GenerateOptions options,
                  bool want_logits, const std::function<void(int64_t)>& on_token) {
  const c10::NoGradGuard no_graph;
  if (options.stop_ids.empty()) options.stop_ids = model.backbone().config().eos_ids;
  const std::vector<int64_t> ids = example.plan.ids;
  const auto tokens = static_cast<int64_t>(ids.size());
  check_prompt_length(tokens, model.backbone().config());  // before the encoders work for nothing
  std::vector<Example> one;
  one.push_back(std::move(example));
  const at::Tensor emb_TD = model.embed(collate(std::move(one), /*per_sample=*/false));
  return generate(model.backbone(), ids, emb_TD, options, want_logits, on_token);
}

}  // namespace euromodal
