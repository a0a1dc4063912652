// caption.h — media and a prompt in, text out: prepare (decode, preprocess, plan), embed, generate.
#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "inference/generator.h"
#include "multimodal/model.h"
#include "multimodal/record_prompt.h"

namespace euromodal {

/// ConfigError unless `dir` is a coupled model that caption reads: names the file, its model_type
/// and what is supported.
void check_captionable(const std::filesystem::path& dir);

/// Decodes and preprocesses `media` and plans the prompt (see plan_prompt for markers and
/// template). The example's labels are all -100. DataError naming the medium.
Example caption_example(const MultimodalModel& model, const std::vector<CaptionMedium>& media,
                        const std::string& prompt, bool use_template);

/// Text of one example; options and on_token as in generate().
Generated caption(const MultimodalModel& model, Example example, const GenerateOptions& options,
                  bool want_logits = false, const std::function<void(int64_t)>& on_token = {});

}  // namespace euromodal
