// token_plan.h — from a record and the exact token counts of its media to ids, labels and spans.
// Data pipeline and model call this same function.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backbone/weights/chat_template.h"
#include "backbone/weights/tokenizer.h"
#include "multimodal/record.h"

namespace euromodal {

/// A run of placeholder tokens. `item` counts the sample's media of that kind from 0.
struct Span {
  Modality kind;
  int64_t item;
  int64_t start;
  int64_t length;
};

struct TokenPlan {
  std::vector<int64_t> ids;     // [T]; placeholder rows hold the kind's placeholder id
  std::vector<int64_t> labels;  // [T]: labels[t] is the id that row t must predict (already
                                // shifted), -100 = no target
  std::vector<Span> spans;      // in order of start
};

struct PlanContext {
  std::shared_ptr<const Tokenizer> tokenizer;
  ChatTemplate chat;
  int64_t placeholder_id[3] = {-1, -1, -1};  // by Modality; -1: this model takes no such media
  /// How a prompt says where a medium goes.
  std::string marker[3] = {"<image>", "<audio>", "<video>"};
  /// The text that the tokenizer reads as placeholder_id (an added token); empty where the id
  /// stands beyond its vocabulary: then the text before and after is tokenised in pieces.
  std::string placeholder_text[3];
};

/// Gives `kind` its placeholder: the tokenizer's own token `token` when it is one, else the id
/// `otherwise`. ConfigError when another kind has that id.
void set_placeholder(PlanContext& context, Modality kind, const std::string& token,
                     int64_t otherwise);

/// Training: the whole conversation through the chat template, labels on what the assistant says
/// and its end token. media_tokens: one count per media part, in order.
TokenPlan plan_record(const Record& record, const std::vector<int64_t>& media_tokens,
                      const PlanContext& context);

/// Inference on a record: all that comes before its last assistant turn, and the generation prompt;
/// the beginning of plan_record()'s ids, bit for bit. media_tokens: the media before that turn.
TokenPlan plan_record_prompt(const Record& record, const std::vector<int64_t>& media_tokens,
                             const PlanContext& context);

/// Inference: prompt with markers. use_template: one user turn with generation prompt, else the
/// text as it is. kinds/media_tokens: the media in order. Markers and media must agree in kind,
/// number and order (DataError naming the kind); with use_template a prompt without markers gets
/// the media first, each followed by a newline.
TokenPlan plan_prompt(const std::string& prompt, const std::vector<Modality>& kinds,
                      const std::vector<int64_t>& media_tokens, bool use_template,
                      const PlanContext& context);

}  // namespace euromodal
