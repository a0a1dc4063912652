// record_prompt.cpp — see record_prompt.h.
#include "multimodal/record_prompt.h"

#include "core/error.h"
#include "multimodal/stored_features.h"

namespace euromodal {
namespace {

/// Messages before the last assistant turn (all of them when there is none).
size_t prompt_turns(const Record& record) {
  for (size_t i = record.messages.size(); i > 0; --i) {
    if (record.messages[i - 1].role == "assistant") return i - 1;
  }
  return record.messages.size();
}

}  // namespace

int64_t add_medium(const MultimodalModel& model, const CaptionMedium& medium, Example& example) {
  check<DataError>(model.takes(medium.kind), "{}: this model takes no {}", medium.source.name,
                   modality_name(medium.kind));
  example.features.emplace_back();
  if (!medium.tensor.empty()) {
    const FeatureIdentity identity = model.feature_identity(medium.kind);
    example.features.back() = read_features(medium.source, medium.tensor, &identity);
    example.kinds.push_back(medium.kind);
    example.inputs.emplace_back();
    example.media_keys.emplace_back();
    return model.num_tokens(medium.kind, example.features.back().layout);
  }
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

Example caption_record(const MultimodalModel& model, const Record& record,
                       const std::vector<MediaSource>& media) {
  Example example;
  example.id = record.id;
  std::vector<int64_t> tokens;
  for (size_t i = 0; i < prompt_turns(record); ++i) {
    for (const Part& part : record.messages[i].parts) {
      if (!part.is_media) continue;
      check<DataError>(tokens.size() < media.size(), "sample {}: medium {} is missing", record.id,
                       part.media.uri);
      tokens.push_back(
          add_medium(model, {part.media.kind, media[tokens.size()], part.media.tensor}, example));
    }
  }
  example.plan = plan_record_prompt(record, tokens, model.plan_context());
  return example;
}

std::string record_reference(const Record& record) {
  std::string out;
  const size_t at = prompt_turns(record);
  if (at == record.messages.size()) return out;
  for (const Part& part : record.messages[at].parts) out += part.text;
  return out;
}

std::string record_prompt(const Record& record) {
  std::string out;
  for (size_t i = 0; i < prompt_turns(record); ++i) {
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

}  // namespace euromodal
