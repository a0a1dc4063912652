// caption.cpp — see caption.h.
#include "inference/caption.h"

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/json.h"
#include "inference/kept_sequences.h"
#include "inference/memory.h"

namespace euromodal {

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
  for (const CaptionMedium& medium : media) tokens.push_back(add_medium(model, medium, example));
  example.plan = plan_prompt(prompt, kinds, tokens, use_template, model.plan_context());
  return example;
}

Generated caption(const MultimodalModel& model, Example example, const GenerateOptions& options,
                  bool want_logits, const std::function<void(int64_t)>& on_token) {
  const c10::NoGradGuard no_graph;
  std::vector<int64_t> ids = example.plan.ids, keys = prompt_keys(example.plan);
  const auto tokens = static_cast<int64_t>(ids.size());
  check_prompt_length(tokens, model.backbone().config());  // before the encoders work for nothing
  check_generation_memory(model.backbone(), tokens, options);
  std::vector<Example> one;
  one.push_back(std::move(example));
  const at::Tensor emb_TD = model.embed(collate(std::move(one), /*per_sample=*/false));
  return generate(model.backbone(), {std::move(ids), emb_TD, std::move(keys)}, options, want_logits,
                  on_token);
}

}  // namespace euromodal
